"""Planted noise: a fixed share of the samples gets the data of another sample, the same one in every run and epoch."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from cmapkd.core.order import keyed_hash, permute, positions
from cmapkd.data.samples import Samples

SEED, PARTNER, AFFECTED = 31, 0, 1


def partners(samples: Int[Tensor, " b"], n: int) -> Int[Tensor, " b"]:
    """Another sample for each, by a fixed permutation of n ≥ 2 samples in which none stays in its place."""
    places = positions(samples.cpu().numpy(), n, SEED, PARTNER)
    return torch.from_numpy(permute((places - 1) % n, n, SEED, PARTNER)).to(samples.device)


def affected(samples: Int[Tensor, " b"], share: float) -> Bool[Tensor, " b"]:
    """Whether each is noisy, which about `share` of all are; a larger share includes those of a smaller one."""
    hit = [keyed_hash(SEED, AFFECTED, i) < share * 2**64 for i in samples.tolist()]
    return torch.tensor(hit, dtype=torch.bool, device=samples.device)


class Swap:
    """Exchanges affected samples of a batch, and their captions, for those of their partners."""

    def __init__(self, samples: Samples, share: float) -> None:
        self.n, self.share, self.spans = len(samples), share, samples.caption_spans

    def partners(self, samples: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The partner of each sample."""
        return partners(samples, self.n)

    def affected(self, samples: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Whether each sample is exchanged."""
        return affected(samples, self.share)

    def captions(self, samples: Int[Tensor, " b"], captions: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """A caption row of each sample's partner: the k-th for the k-th, modulo the partner's number of captions."""
        own, rows, other = (x.cpu().numpy() for x in (samples, captions, self.partners(samples)))
        first, count = self.spans(other)
        found = first + (rows - self.spans(own)[0]) % count
        return torch.from_numpy(found).to(samples.device)

    def mix(
        self, samples: Int[Tensor, " b"], own: Shaped[Tensor, "b ..."], partner: Shaped[Tensor, "b ..."]
    ) -> Shaped[Tensor, "b ..."]:
        """Rows of `partner` where the sample is affected, rows of `own` elsewhere."""
        hit = self.affected(samples).to(own.device)
        return torch.where(hit.view(-1, *(1,) * (own.ndim - 1)), partner, own)
