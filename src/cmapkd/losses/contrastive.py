"""L_align: the contrastive loss of images and texts, in which all captions of an image are positives; and its ICL form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def similarity(a: Float[Tensor, "b e"], b: Float[Tensor, "c e"]) -> Float[Tensor, "b c"]:
    """Cosine similarity of every row of a with every row of b."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def info_nce(logits: Float[Tensor, "b c"], positives: Bool[Tensor, "b c"] | None = None) -> Float[Tensor, ""]:
    """Symmetric InfoNCE of a logit matrix, mean of both directions.

    −½ mean_b log Σ_{c∈pos(b)} softmax(z_b)_c − ½ the same over columns; with one positive each on the diagonal this
    is CLIP's loss (Radford et al. 2021, arXiv 2103.00020). Equal logits with one positive give ln B.
    """
    if positives is None:
        positives = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return 0.5 * (_one_way(logits, positives) + _one_way(logits.T, positives.T))


def align(
    image: Float[Tensor, "b e"],
    text: Float[Tensor, "b e"],
    scale: Float[Tensor, ""] | float,
    positives: Bool[Tensor, "b b"] | None = None,
) -> Float[Tensor, ""]:
    """L_align: InfoNCE of the student's own final embeddings at inverse temperature `scale`."""
    return info_nce(scale * similarity(image, text), positives)


def interactive(
    student_image: Float[Tensor, "b e"],
    student_text: Float[Tensor, "b e"],
    teacher_image: Float[Tensor, "b e"],
    teacher_text: Float[Tensor, "b e"],
    scale: Float[Tensor, ""] | float,
    positives: Bool[Tensor, "b b"] | None = None,
) -> Float[Tensor, ""]:
    """L_icl: the student's image against the teacher's text, and the reverse (CLIP-KD, arXiv 2307.12732, ICL)."""
    images = against_other(student_image, teacher_text, scale, positives)
    texts = against_other(student_text, teacher_image, scale, positives)
    return images + texts


def against_other(
    student: Float[Tensor, "b e"],
    teacher: Float[Tensor, "b e"],
    scale: Float[Tensor, ""] | float,
    positives: Bool[Tensor, "b b"] | None = None,
) -> Float[Tensor, ""]:
    """One half of L_icl: the student's embeddings of one modality against the teacher's of the other."""
    return 0.5 * _one_way(scale * similarity(student, teacher.detach()), positives)


def _one_way(logits: Float[Tensor, "b c"], positives: Bool[Tensor, "b c"] | None) -> Float[Tensor, ""]:
    if positives is None:
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
    hits = logits.masked_fill(~positives, float("-inf")).logsumexp(1)
    return (logits.logsumexp(1) - hits).mean()
