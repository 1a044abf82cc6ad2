"""Encoder: the interface by which tasks score any model: teacher, student, baselines and third-party CLIPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from cmapkd.core.log import Progress
from cmapkd.distributed.collectives import start_maximum, sum_
from cmapkd.distributed.group import rank, world

QUIET = 5.0  # seconds before progress is shown


class Encoder(Protocol):
    """Two towers with one embedding space. Embeddings are L2-normalised float32 without gradient."""

    @property
    def image_size(self) -> int: ...

    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] to float32 [n, E]."""
        ...

    def encode_texts(self, texts: list[str]) -> Tensor:
        """n texts to float32 [n, E]."""
        ...


def embed_images(encoder: Encoder, read: Callable[[range], Tensor], n: int, batch: int) -> Tensor:
    """Embeddings [n, E] on the CPU; `read` gives the uint8 pixels of a range of images."""
    return _embedded(lambda span: encoder.encode_images(read(span)), n, batch, "embed images")


def embed_texts(encoder: Encoder, texts: Sequence[str], batch: int) -> Tensor:
    """Embeddings [n, E] on the CPU, in the order of `texts`."""
    return _embedded(lambda span: encoder.encode_texts([texts[i] for i in span]), len(texts), batch, "embed texts")


def _embedded(embed: Callable[[range], Tensor], n: int, batch: int, label: str) -> Tensor:
    """Rows of all batches; progress is shown only after QUIET seconds, so that a short validation prints nothing.

    Several processes take the batches in turn, and each gets the rows of all.
    """
    progress, chunks = Progress(n, label, quiet=QUIET), {}
    for span in spans(n, batch)[rank() :: world()]:
        chunks[span] = embed(span).float().cpu()
        progress.update(span.stop)
    progress.close()
    if world() == 1:
        return torch.cat(list(chunks.values())) if chunks else torch.empty(0, 0)
    width = start_maximum(max((chunk.shape[1] for chunk in chunks.values()), default=0))()
    rows = torch.zeros(n, width)
    for span, chunk in chunks.items():
        rows[span.start : span.stop] = chunk
    sum_([rows])
    return rows


def spans(n: int, batch: int) -> list[range]:
    """0..n cut into ranges of at most `batch`."""
    return [range(start, min(start + batch, n)) for start in range(0, n, batch)]
