"""TASKS and `evaluate`: from an encoder and a data split to a Score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from cmapkd.core.errors import DataError, UsageError, did_you_mean
from cmapkd.data.loader import read_images
from cmapkd.data.samples import Samples
from cmapkd.tasks.encoder import Encoder, embed_images, embed_texts
from cmapkd.tasks.hard_negatives import score_hard_negatives
from cmapkd.tasks.retrieval import protocols
from cmapkd.tasks.retrieval import recall as retrieval
from cmapkd.tasks.score import Score
from cmapkd.tasks.zeroshot import accuracy as zeroshot

Reader = Callable[[range], Tensor]
HEADS = ("vqa", "detection", "captioning")  # tasks that an encoder alone cannot do


def score_retrieval(encoder: Encoder, samples: Samples, read: Reader, batch: int, protocol: str) -> Score:
    """Recall in both directions and median ranks, by a named protocol."""
    rule = protocols.PROTOCOLS[protocol]
    offsets = torch.as_tensor(samples.caption_offsets)
    owner = torch.repeat_interleave(torch.arange(len(samples)), offsets.diff())
    captions, notes = samples.flat_captions(), tuple(samples.notes)
    if rule.images is not None:
        names = [path.name for path in samples.paths]
        notes += protocols.check_split(protocol, names, len(captions), samples.name)
    if rule.first:
        kept = retrieval.first_captions(owner, len(samples))
        captions, owner = [captions[i] for i in kept.tolist()], owner[kept]
    image = embed_images(encoder, read, len(samples), batch)
    text = embed_texts(encoder, captions, batch)
    found = []
    for fold in protocols.folds(len(samples), rule.folds):
        inside = (owner >= fold.start) & (owner < fold.stop)
        found.append(retrieval.recalls(image[fold.start : fold.stop], text[inside], owner[inside] - fold.start))
    metrics = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
    return Score(
        "retrieval", protocol, metrics, samples.name, len(samples), len(captions), samples.fingerprint(), notes=notes
    )


def score_zeroshot(encoder: Encoder, samples: Samples, read: Reader, batch: int, protocol: str) -> Score:
    """Top-1, top-5, mean per class and each class, with the prompt ensemble that `protocol` names."""
    if samples.labels is None or not samples.classes:
        raise DataError(
            f"zeroshot: {samples.name} has no class labels; give an image folder with one sub-folder a class"
        )
    prompts = zeroshot.templates(protocol)  # type: ignore[arg-type]
    weights = zeroshot.classifier(encoder, samples.classes, prompts, batch)
    image, labels = embed_images(encoder, read, len(samples), batch), torch.as_tensor(samples.labels)
    return Score(
        "zeroshot", protocol, zeroshot.accuracies(image, weights, labels), samples.name, len(samples), 0,
        samples.fingerprint(), notes=(f"{len(samples.classes)} classes", *samples.notes),
        per_class=zeroshot.per_class(image, weights, labels, samples.classes),
    )  # fmt: skip


TASKS: dict[str, Callable[[Encoder, Samples, Reader, int, str], Score]] = {
    "retrieval": score_retrieval,
    "zeroshot": score_zeroshot,
    "hard_negatives": score_hard_negatives,
}
# The first protocol of a task is its default.
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "retrieval": tuple(protocols.PROTOCOLS),
    "zeroshot": get_args(zeroshot.Prompts),
    "hard_negatives": ("one-change",),
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
    protocol = chosen_protocol(task, protocol)
    if len(samples) == 0:
        raise DataError(f"{task}: {samples.name} holds no image; check the split's name")
    read = read or partial(read_images, samples, size=encoder.image_size)
    return replace(TASKS[task](encoder, samples, read, batch, protocol), checkpoint=checkpoint)


def chosen_protocol(task: str, protocol: str | None) -> str:
    """`protocol`, or the task's default. Raises UsageError for a task or protocol that does not exist."""
    if task not in TASKS:
        way_out = did_you_mean(task, TASKS)
        if task in HEADS:
            way_out = f"; {task} needs a head that is trained first: cmapkd train-head {task}, or cmapkd suite"
        raise UsageError(f"task '{task}' does not exist; there are: {', '.join(TASKS)}{way_out}")
    protocol = protocol or PROTOCOLS[task][0]
    if protocol not in PROTOCOLS[task]:
        near = did_you_mean(protocol, PROTOCOLS[task])
        raise UsageError(f"task {task} has no protocol '{protocol}'; it has: {', '.join(PROTOCOLS[task])}{near}")
    return protocol
