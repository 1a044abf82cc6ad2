"""TASKS and `evaluate`: from an encoder and a data split to a Score."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.loader import read_images
from cmapkd.data.samples import Samples
from cmapkd.tasks import retrieval, zeroshot
from cmapkd.tasks.encoder import Encoder, embed_images, embed_texts
from cmapkd.tasks.score import Score

Reader = Callable[[range], Tensor]


def score_retrieval(encoder: Encoder, samples: Samples, read: Reader, batch: int, protocol: str) -> Score:
    """Recall in both directions; `standard` counts all captions, `first-caption` one an image."""
    offsets = torch.as_tensor(samples.caption_offsets)
    owner = torch.repeat_interleave(torch.arange(len(samples)), offsets.diff())
    captions = samples.flat_captions()
    if protocol == "first-caption":
        kept = retrieval.first_captions(owner, len(samples))
        captions, owner = [captions[i] for i in kept.tolist()], owner[kept]
    image = embed_images(encoder, read, len(samples), batch)
    text = embed_texts(encoder, captions, batch)
    metrics = retrieval.recalls(image, text, owner)
    return Score(
        "retrieval", protocol, metrics, samples.name, len(samples), len(captions), samples.fingerprint(),
        notes=tuple(samples.notes),
    )  # fmt: skip


def score_zeroshot(encoder: Encoder, samples: Samples, read: Reader, batch: int, protocol: str) -> Score:
    """Top-1, top-5 and mean per class with the prompt ensemble that `protocol` names."""
    if samples.labels is None or not samples.classes:
        raise DataError(
            f"zeroshot: {samples.name} has no class labels; give an image folder with one sub-folder a class"
        )
    prompts = zeroshot.templates(protocol)  # type: ignore[arg-type]
    weights = zeroshot.classifier(encoder, samples.classes, prompts, batch)
    image = embed_images(encoder, read, len(samples), batch)
    metrics = zeroshot.accuracies(image, weights, torch.as_tensor(samples.labels))
    return Score(
        "zeroshot", protocol, metrics, samples.name, len(samples), 0, samples.fingerprint(),
        notes=(f"{len(samples.classes)} classes", *samples.notes),
    )  # fmt: skip


TASKS: dict[str, Callable[[Encoder, Samples, Reader, int, str], Score]] = {
    "retrieval": score_retrieval,
    "zeroshot": score_zeroshot,
}
# The first protocol of a task is its default.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "retrieval": get_args(retrieval.Protocol),
    "zeroshot": get_args(zeroshot.Prompts),
}


def evaluate(
    encoder: Encoder,
    samples: Samples,
    task: str,
    batch: int = 256,
    protocol: str | None = None,
    checkpoint: str = "",
    read: Reader | None = None,
) -> Score:
    """Score `encoder` on `samples`. read: uint8 pixels of a range of images (default: the loader's).

    Raises UsageError for a task or protocol that does not exist, DataError for data without captions or labels.
    """
    if task not in TASKS:
        raise UsageError(f"task '{task}' does not exist; there are: {', '.join(TASKS)}")
    protocol = protocol or PROTOCOLS[task][0]
    if protocol not in PROTOCOLS[task]:
        raise UsageError(f"task {task} has no protocol '{protocol}'; it has: {', '.join(PROTOCOLS[task])}")
    if len(samples) == 0:
        raise DataError(f"{task}: {samples.name} holds no image; check the split's name")
    read = read or partial(read_images, samples, size=encoder.image_size)
    score = TASKS[task](encoder, samples, read, batch, protocol)
    return Score(**{**vars(score), "checkpoint": checkpoint})
