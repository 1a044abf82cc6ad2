"""CRD's noise-contrastive loss and the draw of its negatives (Tian et al. 2020, arXiv 1910.10699)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

EPSILON = 1e-7


def nce(ratios: Float[Tensor, "b k"], samples: int) -> Float[Tensor, ""]:
    """−1/B Σ_b [ln P⁺/(P⁺ + m/n) + Σ_k ln (m/n)/(P⁻_k + m/n)]; column 0 is the positive, m = K negatives of n samples.

    ratios: P = exp(g·h / T) / Z. CRD's equation 18 as it is released, with the small ε that keeps the logarithm finite.
    """
    positive, negative = ratios[:, 0], ratios[:, 1:]
    noise = negative.shape[1] / samples
    hit = (positive / (positive + noise + EPSILON)).log()
    miss = (noise / (negative + noise + EPSILON)).log()
    return -(hit.sum() + miss.sum()) / len(ratios)


def draw_negatives(own: Int[Tensor, " b"], count: int, samples: int) -> Int[Tensor, "b k"]:
    """`count` indices a row, uniform over all n samples but the row's own, with replacement; torch's CPU generator."""
    drawn = torch.randint(samples - 1, (len(own), count)).to(own.device)
    return drawn + (drawn >= own[:, None]).long()


def remember(
    memory: Float[Tensor, "n d"], rows: Int[Tensor, " b"], new: Float[Tensor, "b d"], momentum: float
) -> Float[Tensor, "n d"]:
    """The bank with normalize(momentum · old + (1 − momentum) · new) at `rows`; a row met twice takes the mean of both."""
    places, which = rows.unique(return_inverse=True)
    member = torch.nn.functional.one_hot(which, len(places)).to(new)
    mean = (member.T @ new.detach()) / member.sum(0)[:, None]
    moved = momentum * memory[places] + (1 - momentum) * mean
    return memory.index_copy(0, places, torch.nn.functional.normalize(moved, dim=-1))
