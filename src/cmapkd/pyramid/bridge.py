"""The teacher's bridge into the shared latent space: one closed-form ridge map per level, frozen.

A teacher's intermediate levels are not aligned across modalities; its final embeddings are. Each level's pooled
feature is therefore mapped by ridge regression onto its own modality's final embedding, which puts all eight levels
into one space (SLS) deterministically and without collapse. How much each pair (i, j) of levels then knows is measured
on held-out samples, and that measurement is the prior of the coupling matrix.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class PairInformation:
    """Held-out facts of the 4×4 level pairs: temperature τ, information in nats, recall@1, and the prior α."""

    temperatures: Tensor
    information: Tensor
    recall: Tensor
    alpha: Tensor


def ridge(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"], strength: float = 0.03) -> tuple[Tensor, Tensor]:
    """(W [d, e], b [e]) minimising ‖xW + b − y‖² + strength · mean-variance · n · ‖W‖²; float64 inside."""
    x, y = x.double(), y.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    gram = centred.T @ centred
    gram.diagonal().add_(strength * gram.diagonal().mean().clamp_min(1e-12))
    weight = torch.linalg.solve(gram, centred.T @ (y - mean_y))
    return weight.float(), (mean_y - mean_x @ weight).float()


def pair_information(
    image: Float[Tensor, "n i e"], text: Float[Tensor, "n j e"], floor: float = 0.5
) -> PairInformation:
    """Fit τ_ij by the held-out contrastive likelihood and set α_ij ∝ max(0, log N − NLL_ij)².

    Pairs that know less than `floor` nats get α = 0, since KL to near-uniform targets is noise, and (4, 4) gets 0
    because the final logits already teach it. α sums to 1 (or to 0 when no pair knows anything).
    """
    n = len(image)
    image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
    temperatures, information, recall = (torch.zeros(image.shape[1], text.shape[1]) for _ in range(3))
    scales = torch.logspace(0, 2.3, 24)
    target = torch.arange(n)
    for i in range(image.shape[1]):
        for j in range(text.shape[1]):
            cosine = image[:, i] @ text[:, j].T
            losses = [
                0.5 * (F.cross_entropy(s * cosine, target) + F.cross_entropy(s * cosine.T, target)) for s in scales
            ]
            best = int(torch.stack(losses).argmin())
            temperatures[i, j] = 1 / scales[best]
            information[i, j] = max(0.0, math.log(n) - float(losses[best]))
            recall[i, j] = (cosine.argmax(1) == target).float().mean()
    alpha = torch.where(information >= floor, information.square(), torch.zeros_like(information))
    alpha[-1, -1] = 0
    return PairInformation(temperatures, information, recall, alpha / alpha.sum().clamp_min(1e-12))


def spread(pairs: PairInformation, image: list[int], text: list[int]) -> PairInformation:
    """Facts of some levels' pairs at their places of the 4×4 level pairs; the others know nothing, at temperature 1."""
    out = [torch.ones(4, 4), *(torch.zeros(4, 4) for _ in range(3))]
    for whole, part in zip(out, astuple(pairs), strict=True):
        whole[torch.tensor(image)[:, None], torch.tensor(text)[None]] = part
    return PairInformation(*out)
