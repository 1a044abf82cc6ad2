"""How alike a student and its teacher judge: the same first hit, and correlation of their similarity matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.core.types import Pair


def agreement(student: Pair[Tensor], teacher: Pair[Tensor], sample: int = 1024, seed: int = 0) -> dict[str, float]:
    """Figures that need no common width. Each model's image [N, E] and text [M, E]; both models saw the same N and M.

    image_top1_agreement: share of captions for which both rank the same image first; text_top1_agreement: the same of
    images and captions; pearson and spearman: correlation of the two image × text similarity matrices. All are
    computed on at most `sample` images and captions drawn with `seed`. NaN where a matrix is constant.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (_draw(len(x), sample, generator) for x in (student.image, student.text))
    ours, theirs = (
        F.normalize(pair.image[rows].float(), dim=-1) @ F.normalize(pair.text[columns].float(), dim=-1).T
        for pair in (student, teacher)
    )
    return {
        "image_top1_agreement": float((ours.argmax(0) == theirs.argmax(0)).double().mean()),
        "text_top1_agreement": float((ours.argmax(1) == theirs.argmax(1)).double().mean()),
        "pearson": pearson(ours, theirs),
        "spearman": pearson(fractional_ranks(ours), fractional_ranks(theirs)),
    }


def pearson(a: Tensor, b: Tensor) -> float:
    """Linear correlation of two tensors of one size, read flat."""
    a, b = (x.flatten().double() - x.double().mean() for x in (a, b))
    return float((a @ b) / (a.norm() * b.norm()))


def fractional_ranks(x: Tensor) -> Tensor:
    """float64 [n] ranks of the flat values; equal values share the mean of their ranks."""
    _, group, count = x.flatten().unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count - 1) / 2)[group]


def _draw(n: int, sample: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator)[:sample].sort().values
