"""Projectors: learnt linear maps from the student's levels and embeddings to the teacher's spaces."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Features, Pair
from cmapkd.pyramid.levels import Shape


class Projectors(nn.Module):
    """Level adapters, bridge heads (V2L, L2V) and embedding projectors.

    adapters: S_k = Linear(LN(h_k)), zero-initialised so that the trunk feels a level only once its adapter knows
    something (S = 0 means FVU 1 exactly). v2l, l2v: the student's pooled levels into the shared space, for `bridge`, the
    levels that have a place in it. project: final
    embeddings to the teacher's width, absent when the widths agree.
    """

    def __init__(self, student: Shape, ranks: dict[str, int], embedding: int, bridge: Collection[str]) -> None:
        super().__init__()
        widths: dict[str, int] = dict(zip(IMAGE_LEVELS, student.image_widths, strict=True))
        widths |= dict(zip(TEXT_LEVELS, student.text_widths, strict=bool(student.text_widths)))
        self.adapters = nn.ModuleDict({k: _adapter(widths[k], r) for k, r in ranks.items()})
        self.v2l = nn.ModuleDict({k: _head(2 * widths[k], embedding) for k in IMAGE_LEVELS if k in bridge})
        self.l2v = nn.ModuleDict({k: _head(2 * widths[k], embedding) for k in TEXT_LEVELS if k in bridge})
        self.embedding = embedding
        same = student.embedding == embedding
        self.project = nn.ModuleList([] if same else [nn.Linear(student.embedding, embedding) for _ in range(2)])

    def level(self, name: str, tokens: Tensor) -> Tensor:
        """S_k [B, N, r] of raw student tokens [B, N, D]."""
        return self.adapters[name](tokens)

    def bridge(self, features: Pair[Features]) -> Pair[Tensor]:
        """[B, 4, E] per modality, unit rows; zeros for a level that has no place in the shared space."""

        def heads(names: tuple[str, ...], modules: nn.ModuleDict, part: Features) -> Tensor:
            nothing = part.final.new_zeros(len(part.final), self.embedding)
            pooled = dict(zip(names, part.pooled, strict=False))
            rows = [modules[name](pooled[name]) if name in modules else nothing for name in names]
            return F.normalize(torch.stack(rows, 1).float(), dim=-1)

        return Pair(
            heads(IMAGE_LEVELS, self.v2l, features.image),
            heads(TEXT_LEVELS, self.l2v, features.text),
        )

    def projected(self, final: Pair[Tensor]) -> Pair[Tensor]:
        if not self.project:
            return final
        return Pair(self.project[0](final.image), self.project[1](final.text))


def _adapter(width: int, rank: int) -> nn.Sequential:
    linear = nn.Linear(width, rank)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.LayerNorm(width), linear)


def _head(width: int, embedding: int) -> nn.Sequential:
    linear = nn.Linear(width, embedding)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.LayerNorm(width), linear)
