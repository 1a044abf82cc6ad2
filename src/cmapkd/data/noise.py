"""Planted noise: a fixed share of the samples gets the data of another sample, the same one in every run and epoch."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from cmapkd.core.order import keyed_hash, permute
from cmapkd.data.samples import Samples

SEED, PARTNER, AFFECTED = 31, 0, 1


def derangement(n: int) -> Int[Tensor, " n"]:
    """A fixed permutation of n ≥ 2 samples in which none stays in its place."""
    order = permute(np.arange(n), n, SEED, PARTNER)
    out = np.empty(n, dtype=np.int64)
    out[order] = np.roll(order, 1)
    return torch.from_numpy(out)


def affected(n: int, share: float) -> Bool[Tensor, " n"]:
    """The noisy ones among n samples, about `share` of them; a larger share includes those of a smaller one."""
    return torch.tensor([keyed_hash(SEED, AFFECTED, i) < share * 2**64 for i in range(n)])


class Swap:
    """Exchanges affected samples of a batch, and their captions, for those of their partners.

    other: int64 [n], the partner of each sample; hit: bool [n], the affected samples; first: int64 [n + 1], the first
    caption row of each sample.
    """

    def __init__(self, samples: Samples, share: float) -> None:
        self.other, self.hit = derangement(len(samples)), affected(len(samples), share)
        self.first = torch.from_numpy(samples.caption_offsets)

    def captions(self, samples: Int[Tensor, " b"], captions: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """A caption row of each sample's partner: the k-th for the k-th, modulo the partner's number of captions."""
        first, other = self.first.to(samples.device), self.other.to(samples.device)[samples]
        return first[other] + (captions - first[samples]) % (first[other + 1] - first[other])

    def mix(
        self, samples: Int[Tensor, " b"], own: Shaped[Tensor, "b ..."], partner: Shaped[Tensor, "b ..."]
    ) -> Shaped[Tensor, "b ..."]:
        """Rows of `partner` where the sample is affected, rows of `own` elsewhere."""
        hit = self.hit[samples.cpu()].to(own.device)
        return torch.where(hit.view(-1, *(1,) * (own.ndim - 1)), partner, own)
