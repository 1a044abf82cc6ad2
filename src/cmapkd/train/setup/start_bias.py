"""Bias of a sigmoid student that inherits from a softmax teacher, which has none of its own to take over.

At the teacher's scale of up to 100 SigLIP's first bias of −10 can call most pairs of such a student matches, and an optimizer
moves a bias by no more than the learning rate in a step.
"""

from __future__ import annotations

import torch

from cmapkd.core.tree import join, rows
from cmapkd.core.types import Batch, LogitScale
from cmapkd.losses.contrastive import similarity
from cmapkd.losses.sigmoid import balanced_bias
from cmapkd.towers.dual import DualEncoder, evaluating
from cmapkd.train.exchange import exchange

CHUNK = 64


@torch.no_grad()
def fit_bias(student: DualEncoder, batch: Batch) -> None:
    """Set the bias at which L_align of a batch, the rows of all processes together, does not change with it."""
    with evaluating(student):
        pieces = torch.arange(len(batch)).split(CHUNK)
        final = join([student.final(rows(batch.student, piece)) for piece in pieces])
    final, samples = exchange((final.map(lambda part: part.float()), batch.samples))
    z = LogitScale(student.similarity.scale).logits(similarity(final.image, final.text))
    student.similarity.set_bias_(balanced_bias(z, samples[:, None] == samples[None, :]))
