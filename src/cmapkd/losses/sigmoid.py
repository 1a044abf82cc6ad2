"""Sigmoid losses: each image-text pair is a question of its own, match or not (SigLIP, Zhai et al. 2023, arXiv 2303.15343)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

WIDE, HALVINGS = 30.0, 32  # at ±30 beyond all logits a sigmoid is 0 or 1 to any batch


def pair_cross_entropy(logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    """−1/B Σ_ij [t_ij ln σ(z_ij) + (1 − t_ij) ln σ(−z_ij)]: the sum over a row's pairs, mean over the rows.

    With t = 1 for the pairs of one image and 0 for all others it is SigLIP's loss. Its gradient (σ(z) − t) / B is that of the
    symmetric InfoNCE with σ(z) in the place of the mean of both softmaxes, so weights mean the same for both.
    """
    return F.binary_cross_entropy_with_logits(logits, targets.detach(), reduction="sum") / len(logits)


def pair_divergence(logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    """1/B Σ_ij KL(Bernoulli(t_ij) ‖ Bernoulli(σ(z_ij))): the cross-entropy less the entropy of the targets."""
    targets = targets.detach()
    entropy = -(torch.xlogy(targets, targets) + torch.special.xlog1py(1 - targets, -targets))
    return pair_cross_entropy(logits, targets) - entropy.sum() / len(logits)


def matches(logits: Float[Tensor, "b b"], positives: Bool[Tensor, "b b"] | None = None) -> Float[Tensor, "b b"]:
    """Probability that a pair is a match, of the logits of a softmax model: ½ [softmax of its row + of its column].

    One softmax spreads the single match that it knows of over all captions of an image; each of them is a match if one
    is, so the probabilities of columns (rows) of one image are added up. positives: pairs of one image, None where all differ.
    """
    rows, columns = logits.softmax(1), logits.softmax(0)
    if positives is not None:
        first = positives.to(torch.uint8).argmax(1)  # the first sample of the same image stands for all of them
        rows = torch.zeros_like(rows).index_add_(1, first, rows)[:, first]
        columns = torch.zeros_like(columns).index_add_(0, first, columns)[first]
    return (0.5 * (rows + columns)).clamp_max(1.0)


def balanced_bias(logits: Float[Tensor, "b c"], positives: Bool[Tensor, "b c"]) -> float:
    """The bias b with Σ_ij σ(z_ij + b) = the number of positives, where the pair loss has its least value in b; by bisection."""
    low, high = float(-logits.max()) - WIDE, float(-logits.min()) + WIDE
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float((logits + middle).sigmoid().sum()) > float(positives.sum()):
            high = middle
        else:
            low = middle
    return (low + high) / 2


def chance(batch: int) -> float:
    """The pair loss of a model that calls each of `batch`² pairs a match with probability 1/B: ln B + (B − 1) ln(B / (B − 1))."""
    others = batch - 1
    return math.log(batch) + (others * math.log(batch / others) if others else 0.0)
