"""The teacher's side of every feature loss: calibrated once, then frozen, no learnable part.

T_k = (LN0(x) − μ_k) U_r Hᵀ / s_k: parameter-free LayerNorm per token, the top r principal components, an orthonormal
Hadamard rotation and one scalar per level. Every channel then has unit variance, no noise direction is amplified
(PHI-S, arXiv 2410.01680), and int8 storage meets near-Gaussian values. Collapse is impossible: nothing here moves.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Features, Pair, Teaching
from cmapkd.pyramid.bridge import PairInformation
from cmapkd.pyramid.resample import area_matrix, resample_grid, sample_at
from cmapkd.pyramid.sampling import importance, likeness, pps_places, starts, top_places

SPATIAL = ("P2", "P3", "P4")


def rank_for(width: int, rank: int) -> int:
    """The asked rank, a power of 2; of a level that is narrower, the first power of 2 that holds all of its width."""
    return min(rank, 1 << (width - 1).bit_length())


def stored_side(native: int, grid: int | None) -> int:
    """Side at which a spatial level is kept: its own, or `grid` when that is smaller."""
    return native if grid is None else min(native, grid)


class Targets(nn.Module):
    """Buffers only: per level μ [D], basis [D, r], bridge weight [2D, E] and bias [E]; τ, information, recall, α [4, 4].

    `grid` pools spatial levels (P2-P4, and P5's map) to that side before they are kept; `tokens` keeps only that many key
    tokens of P2-P4, the same places for all three: a sample in proportion to importance (`pps`), or `topk`.
    """

    def __init__(
        self, tensors: dict[str, Tensor], grid: int | None, tokens: int | None = None, sampling: str = "pps"
    ) -> None:
        super().__init__()
        self.grid, self.tokens, self.sampling = grid, tokens, sampling
        for name, tensor in tensors.items():
            self.register_buffer(name.replace("/", "_"), tensor, persistent=False)
        self.names = tuple(tensors)

    def get(self, name: str) -> Tensor:
        return getattr(self, name.replace("/", "_"))

    def tensors(self) -> dict[str, Tensor]:
        return {name: self.get(name) for name in self.names}

    @property
    def pairs(self) -> PairInformation:
        return PairInformation(
            *(self.get(f"pairs/{key}") for key in ("temperatures", "information", "recall", "alpha"))
        )

    def rank(self, level: str) -> int:
        return self.get(f"{level}/basis").shape[1]

    def level(self, name: str, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b m r"]:
        """T_k of raw tokens, spatially pooled as configured; float32."""
        if name in IMAGE_LEVELS and self.grid is not None:
            tokens = self._pool(name, tokens.float())
        normed = F.layer_norm(tokens.float(), tokens.shape[-1:])
        return (normed - self.get(f"{name}/mean")) @ self.get(f"{name}/basis")

    def bridge(self, features: Features, levels: tuple[str, ...]) -> Float[Tensor, "b k e"]:
        """Unit rows in the shared space, one per level."""
        rows = [
            p.float() @ self.get(f"{k}/bridge") + self.get(f"{k}/bias")
            for k, p in zip(levels, features.pooled, strict=True)
        ]
        return F.normalize(torch.stack(rows, 1), dim=-1)

    def teaching(
        self, features: Pair[Features], levels: Iterable[str], scale: float, which: tuple[Tensor, Tensor] | None = None
    ) -> Teaching:
        """Everything the losses need of the teacher on one batch; which: its samples and views."""
        wanted = set(levels)
        out, places, side = self.image_levels(features.image, wanted, which)
        masks = {}
        for name, tokens, mask in zip(TEXT_LEVELS, features.text.levels, features.text.masks, strict=True):
            if name in wanted:
                out[name] = self.level(name, tokens)
                if mask is not None:
                    masks[name] = mask
        bridge = Pair(self.bridge(features.image, IMAGE_LEVELS), self.bridge(features.text, TEXT_LEVELS))
        return Teaching(
            out, masks, bridge, features.map(lambda f: F.normalize(f.final.float(), dim=-1)), scale, places, side
        )

    def image_levels(
        self, image: Features, wanted: Iterable[str], which: tuple[Tensor, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], Tensor | None, int]:
        """(targets, places of the key tokens or None, side of their grid) of the image levels asked for.

        which: int64 [B] samples and [B] views, whose sampled tokens are always the same ones.
        """
        tokens = dict(zip(IMAGE_LEVELS, image.levels, strict=True))
        side = round(tokens["P4"].shape[1] ** 0.5)
        places = None
        if self.tokens is not None:
            alike = likeness(tokens["P4"].float(), tokens["P5"][:, -2].float())
            if self.sampling == "topk":
                places = top_places(alike, self.tokens)
            else:
                assert which is not None, "a sample of tokens belongs to a sample and a view"
                places = pps_places(importance(alike), self.tokens, starts(*which).to(alike.device))
            tokens |= {name: sample_at(tokens[name].float(), places, side) for name in SPATIAL}
        return {name: self.level(name, tokens[name]) for name in IMAGE_LEVELS if name in wanted}, places, side

    def _pool(self, name: str, tokens: Tensor) -> Tensor:
        extra = 2 if name == "P5" else 0
        n = round((tokens.shape[1] - extra) ** 0.5)
        side = stored_side(n, self.grid)
        if side == n:
            return tokens
        grid = resample_grid(tokens[:, : n * n], area_matrix(n, side).to(tokens))
        return torch.cat([grid, tokens[:, n * n :]], dim=1)
