"""Accuracy on hard negatives: how often the true sentence is nearer to the image than the false one."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from cmapkd.data.samples import Samples
from cmapkd.data.scenes.negatives import KINDS, contrasts
from cmapkd.tasks.encoder import Encoder, embed_images, embed_texts
from cmapkd.tasks.evaluate import Pixels
from cmapkd.tasks.score import Score


def score_hard_negatives(encoder: Encoder, samples: Samples, read: Pixels, batch: int, protocol: str) -> Score:
    """Share of pairs whose true sentence is nearer, over all pairs and by what differs; built-in scenes only."""
    pairs = contrasts(samples)
    image = embed_images(encoder, read, len(samples), batch)
    # Pairs of one scene share their true sentence mostly, so that each distinct text passes the tower once.
    place = {text: k for k, text in enumerate(dict.fromkeys(chain.from_iterable((p.true, p.false) for p in pairs)))}
    text = embed_texts(encoder, list(place), batch)
    right = nearer(
        image[[p.image for p in pairs]], text[[place[p.true] for p in pairs]], text[[place[p.false] for p in pairs]]
    )
    metrics = {"accuracy": float(right.double().mean())}
    for kind in KINDS:
        of = torch.tensor([p.kind == kind for p in pairs])
        if of.any():
            metrics[f"accuracy/{kind}"] = float(right[of].double().mean())
    return Score(
        "hard_negatives", protocol, metrics, samples.name, len(samples), 2 * len(pairs), samples.fingerprint(),
        notes=(f"{len(pairs)} pairs, chance 50 %", *samples.notes),
    )  # fmt: skip


def nearer(image: Tensor, true: Tensor, false: Tensor) -> Tensor:
    """bool [P]: v · t₊ > v · t₋ of rows [P, E]; ties and NaN count against the model."""
    return (image * true).sum(1) > (image * false).sum(1)
