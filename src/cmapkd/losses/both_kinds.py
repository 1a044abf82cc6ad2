"""Losses on image-text logits for models of both kinds, softmax (CLIP) and sigmoid (SigLIP); the student's kind decides.

A softmax student learns of a sigmoid teacher by P(j | i) = odds_ij / Σ_c odds_ic, given exactly one match a row; with odds
exp(s·cos + b) the bias cancels, and that is the softmax at the teacher's scale. A sigmoid student learns of a softmax
teacher by the mean of both directions' softmaxes: a cross-entropy is linear in its target, so this is the mean of the two.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cmapkd.core.types import LogitScale, Pair
from cmapkd.losses import affinity as affinities
from cmapkd.losses import contrastive, sigmoid
from cmapkd.losses import logits as softmax
from cmapkd.losses.contrastive import similarity

Positives = Bool[Tensor, "b b"] | None


def align(
    image: Float[Tensor, "b e"], text: Float[Tensor, "b e"], mine: LogitScale, positives: Positives = None
) -> Float[Tensor, ""]:
    """L_align: symmetric InfoNCE of a softmax student, SigLIP's pair loss of a sigmoid one."""
    if mine.kind == "softmax":
        return contrastive.align(image, text, mine.scale, positives)
    return sigmoid.pair_cross_entropy(mine.logits(similarity(image, text)), _labels(image, positives))


def interactive(
    student: Pair[Tensor], teacher: Pair[Tensor], mine: LogitScale, positives: Positives
) -> Float[Tensor, ""]:
    """L_icl, [B, E] per modality: `align` of the student's images with the teacher's texts and the reverse, the mean of both."""
    images = against_other(student.image, teacher.text, mine, positives)
    return images + against_other(student.text, teacher.image, mine, positives)


def against_other(
    student: Float[Tensor, "b e"], teacher: Float[Tensor, "b e"], mine: LogitScale, positives: Positives = None
) -> Float[Tensor, ""]:
    """One half of L_icl: the student's embeddings of one modality against the teacher's of the other."""
    if mine.kind == "softmax":
        return contrastive.against_other(student, teacher, mine.scale, positives)
    return 0.5 * align(student, teacher.detach(), mine, positives)


def distill(
    student: Pair[Tensor],
    teacher: Pair[Tensor],
    mine: LogitScale,
    theirs: LogitScale,
    positives: Positives = None,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """L_logits: T² times the KL divergence of the teacher's probabilities from the student's, at logits z / T.

    student: [B, E_S] per modality, teacher: [B, E_T]. Softmax: mean of both directions over the batch; sigmoid: sum over
    a row's pairs, mean over the rows.
    """
    if mine.kind == "softmax":
        return softmax.logits(
            student.image, student.text, teacher.image, teacher.text, mine.scale, theirs.scale, temperature
        )
    z = mine.logits(similarity(student.image, student.text)) / temperature
    return temperature**2 * sigmoid.pair_divergence(z, pair_targets(teacher, theirs, positives, temperature))


def affinity(
    student: Pair[Tensor], teacher: Pair[Tensor], mine: LogitScale, theirs: LogitScale, positives: Positives = None
) -> Float[Tensor, ""]:
    """Soft cross-entropy of the student's probabilities against the teacher's: `distill` plus the teacher's entropy."""
    if mine.kind == "softmax":
        return affinities.affinity(student.image, student.text, teacher.image, teacher.text, mine.scale, theirs.scale)
    z = mine.logits(similarity(student.image, student.text))
    return sigmoid.pair_cross_entropy(z, pair_targets(teacher, theirs, positives))


def pair_targets(
    teacher: Pair[Tensor], theirs: LogitScale, positives: Positives = None, temperature: float = 1.0
) -> Float[Tensor, "b b"]:
    """The teacher's probability that each pair is a match."""
    z = theirs.logits(similarity(teacher.image, teacher.text)).detach() / temperature
    return z.sigmoid() if theirs.kind == "sigmoid" else sigmoid.matches(z, positives)


def chance(kind: Literal["softmax", "sigmoid"], batch: int) -> float:
    """L_align of a model that cannot tell the pairs of a batch apart."""
    return math.log(batch) if kind == "softmax" else sigmoid.chance(batch)


def _labels(image: Tensor, positives: Positives) -> Tensor:
    """1 for pairs of one image, 0 for others, in the dtype of the embeddings."""
    return (
        torch.eye(len(image), dtype=image.dtype, device=image.device)
        if positives is None
        else positives.to(image.dtype)
    )
