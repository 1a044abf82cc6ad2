"""Key tokens of a map: the likest to the summary, or a systematic sample in proportion to importance (PPS).

A fixed top-k never looks at the background again. A sample with inclusion probability π_p = m q_p (systematic: Madow 1949)
keeps every token possible, and the plain mean of the sampled tokens' errors is unbiased for Σ q_p e_p.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from cmapkd.core.order import keyed_hash

SEED = 53
FLAT = 0.25  # share of q that is even over the tokens, so that the background is seen too


def likeness(tokens: Float[Tensor, "b n d"], summary: Float[Tensor, "b d"]) -> Float[Tensor, "b n"]:
    """Cosine of layer-normed features with the summary, so that norms play no part."""
    normed = F.normalize(F.layer_norm(tokens, tokens.shape[-1:]), dim=-1)
    wanted = F.normalize(F.layer_norm(summary, summary.shape[-1:]), dim=-1)
    return torch.einsum("bnd,bd->bn", normed, wanted)


def top_places(alike: Float[Tensor, "b n"], count: int) -> Int[Tensor, "b k"]:
    """The `count` likest tokens, in grid order."""
    return alike.topk(min(count, alike.shape[1]), dim=1).indices.sort(dim=1).values


def importance(alike: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """q = ¾ of the likeness above 0, summed to 1, + ¼ even; even where no token is like the summary."""
    positive = alike.double().clamp_min(0) + 1e-9
    return (1 - FLAT) * positive / positive.sum(1, keepdim=True) + FLAT / alike.shape[1]


def inclusion(q: Float[Tensor, "b n"], count: int) -> Float[Tensor, "b n"]:
    """π = m q, capped at 1 with the rest of m spread over the other tokens in proportion; sums to m = `count` ≤ n."""
    sure = torch.zeros_like(q, dtype=torch.bool)
    while True:
        rest = q.masked_fill(sure, 0.0)
        pi = (count - sure.sum(1, keepdim=True)) * rest / rest.sum(1, keepdim=True).clamp_min(1e-30)
        more = (pi >= 1) & ~sure
        if not more.any():
            return pi.masked_fill(sure, 1.0)
        sure |= more


def pps_places(q: Float[Tensor, "b n"], count: int, start: Float[Tensor, " b"]) -> Int[Tensor, "b k"]:
    """A systematic sample: the tokens under the points start, start + 1, … of the running sum of π, in grid order.

    start: in [0, 1), one a row. Each token is in with probability π over a uniform start, and never twice.
    """
    count = min(count, q.shape[1])
    ends = inclusion(q, count).cumsum(1)
    points = start.to(ends)[:, None] + torch.arange(count, device=q.device)
    return torch.searchsorted(ends, points, right=True).clamp_max(q.shape[1] - 1)


def starts(samples: Int[Tensor, " b"], views: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Starting points of the samples of stored views, the same in every run and process."""
    rows = zip(samples.tolist(), views.tolist(), strict=True)
    return torch.tensor([keyed_hash(SEED, *row) / 2**64 for row in rows], dtype=torch.float64)
