"""Encoder: all that a task knows of a model; teacher, student, baselines and third-party CLIPs are evaluated alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from cmapkd.core.log import Progress

MANY = 32  # batches


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
    """Rows of all batches; with progress where there are many, so that a validation during training says nothing."""
    cuts = spans(n, batch)
    progress = Progress(n, label) if len(cuts) > MANY else None
    chunks = []
    for span in cuts:
        chunks.append(embed(span).float().cpu())
        if progress is not None:
            progress.update(span.stop)
    if progress is not None:
        progress.close()
    return torch.cat(chunks) if chunks else torch.empty(0, 0)


def spans(n: int, batch: int) -> list[range]:
    """0..n cut into ranges of at most `batch`."""
    return [range(start, min(start + batch, n)) for start in range(0, n, batch)]
