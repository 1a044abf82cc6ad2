"""The decisions of a trained policy on single samples: their level weights, and the mean coupling factor."""

from __future__ import annotations

import numpy as np
import torch

from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS, Batch, Inputs, Needs
from cmapkd.data.samples import Samples
from cmapkd.policy.base import Policy
from cmapkd.report.plots import Matrix
from cmapkd.teacher.protocol import Teacher

SEEN = 100_000  # samples whose captions are measured, at most, evenly spread


def policy_decisions(
    policy: Policy, teacher: Teacher, samples: Samples, count: int
) -> tuple[Matrix | None, Matrix | None]:
    """(level weights of `count` samples, mean coupling factor); None for what the policy leaves as it is.

    The samples run from short to long captions, evenly spread over the split.
    """
    seen = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), SEEN)).astype(np.int64))
    words = [np.mean([len(caption.split()) for caption in samples.captions[i]]) for i in seen]
    order = seen[np.argsort(words, kind="stable")]
    rows = torch.from_numpy(order[np.linspace(0, len(order) - 1, count).astype(np.int64)])
    captions = torch.from_numpy(samples.caption_spans(rows.numpy())[0])
    nothing = torch.empty(0)
    batch = Batch(rows, captions, torch.zeros_like(rows), Inputs(nothing, nothing, nothing))
    needs = Needs(teacher=True, teacher_bridge=policy.reads_bridge)
    weights, coupling = policy(teacher.outputs(batch, needs), 1.0)
    names = tuple(samples.captions[int(i)][0][:40] for i in rows)
    levels = None if weights is None else Matrix(names, LEVELS, tuple(tuple(row) for row in weights.tolist()))
    pairs = None if coupling is None else coupling.mean(0).tolist()
    return levels, None if pairs is None else Matrix(IMAGE_LEVELS, TEXT_LEVELS, tuple(tuple(row) for row in pairs))
