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

from cmapkd.core.types import (
    IMAGE_LEVELS,
    LEVELS,
    TEXT_LEVELS,
    Features,
    LogitScale,
    Needs,
    Pair,
    TeacherOutputs,
    Tokens,
)
from cmapkd.pyramid.bridge import PairInformation
from cmapkd.pyramid.maps import MAPS, level_vector, pool_map, side_of
from cmapkd.pyramid.resample import sample_at
from cmapkd.pyramid.sampling import importance, likeness, pps_places, starts, top_places


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
    def levels(self) -> tuple[str, ...]:
        """The levels that the teacher gives, of which there are targets."""
        return tuple(name for name in LEVELS if f"{name}/basis" in self.names)

    @property
    def pairs(self) -> PairInformation | None:
        """Facts of the level pairs; None for a teacher that does not give levels of both modalities."""
        if "pairs/alpha" not in self.names:
            return None
        return PairInformation(
            *(self.get(f"pairs/{key}") for key in ("temperatures", "information", "recall", "alpha"))
        )

    def rank(self, level: str) -> int:
        return self.get(f"{level}/basis").shape[1]

    def level(self, name: str, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b m r"]:
        """T_k of raw tokens, spatially pooled as configured; float32."""
        if name in IMAGE_LEVELS and self.grid is not None:
            tokens = pool_map(name, tokens.float(), self.grid)
        normed = F.layer_norm(tokens.float(), tokens.shape[-1:])
        return (normed - self.get(f"{name}/mean")) @ self.get(f"{name}/basis")

    def bridge(self, features: Features, levels: tuple[str, ...]) -> Float[Tensor, "b k e"]:
        """Unit rows in the shared space, one per level; zeros for a level that the teacher does not give."""
        pooled = dict(zip(levels, features.pooled, strict=False))
        width = self.get(f"{self.levels[0]}/bridge").shape[1]
        nothing = features.final.new_zeros(len(features.final), width, dtype=torch.float32)
        rows = [
            pooled[k].float() @ self.get(f"{k}/bridge") + self.get(f"{k}/bias") if k in self.levels else nothing
            for k in levels
        ]
        return F.normalize(torch.stack(rows, 1), dim=-1)

    def outputs(
        self, features: Pair[Features], needs: Needs, similarity: LogitScale, which: tuple[Tensor, Tensor] | None = None
    ) -> TeacherOutputs:
        """Teacher outputs of one batch from a tower's features; which: its samples and views."""
        levels = self.image_levels(features.image, needs.levels, which) | self.text_levels(features.text, needs.levels)
        bridge = None
        if needs.bridge or needs.teacher_bridge:
            bridge = Pair(self.bridge(features.image, IMAGE_LEVELS), self.bridge(features.text, TEXT_LEVELS))
        return TeacherOutputs(features.map(lambda f: F.normalize(f.final.float(), dim=-1)), similarity, levels, bridge)

    def text_levels(self, text: Features, wanted: Iterable[str]) -> dict[str, Tokens]:
        """Targets of the text levels asked for."""
        raw = zip(TEXT_LEVELS, text.levels, text.masks, strict=False)
        return {name: Tokens(self.level(name, tokens), mask) for name, tokens, mask in raw if name in wanted}

    def image_levels(
        self, image: Features, wanted: Iterable[str], which: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, Tokens]:
        """Targets of the image levels asked for, with the places of the key tokens where only those are kept.

        which: int64 [B] samples and [B] views, whose sampled tokens are always the same ones.
        """
        tokens: dict[str, Tensor] = dict(zip(IMAGE_LEVELS, image.levels, strict=True))
        if self.tokens is None:
            return {name: Tokens(self.level(name, tokens[name])) for name in IMAGE_LEVELS if name in wanted}
        deepest, last = MAPS[-1], IMAGE_LEVELS[-1]
        alike = likeness(tokens[deepest].float(), level_vector(last, tokens[last]).float())
        if self.sampling == "topk":
            places = top_places(alike, self.tokens)
        else:
            assert which is not None, "a sample of tokens belongs to a sample and a view"
            places = pps_places(importance(alike), self.tokens, starts(*which).to(alike.device))
        side = side_of(deepest, tokens[deepest].shape[1])
        out = {
            name: Tokens(self.level(name, sample_at(tokens[name].float(), places, side)), None, places, side)
            for name in MAPS
            if name in wanted
        }
        rest = (name for name in IMAGE_LEVELS if name in wanted and name not in MAPS)
        return out | {name: Tokens(self.level(name, tokens[name])) for name in rest}
