"""The unified pyramid's levels: the blocks that feed P2..P5 and L1..L4, and the forming of their tokens.

Levels are groups of blocks by proportion of depth, so that any depth works. A level reads the residual stream after
the last block of its group. Image: cuts at 1/4, 2/3, 1 give P2, P3, P4; P5 is the last map at half the side, plus a
summary token and the mean. A ResNet's stages 1..4 are P2..P5. Text: cuts at thirds give L1 words, L2 phrases (windows
of three words), L3 the sentence (mean over real tokens); L4 is the end token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from cmapkd.core.types import IMAGE_LEVELS, SIDES, TEXT_LEVELS, Side
from cmapkd.pyramid.maps import mean_tokens

IMAGE_CUTS = (1 / 4, 2 / 3, 1.0)
TEXT_CUTS = (1 / 3, 2 / 3, 1.0)
PHRASE = 3
OF_WORDS = ("L1", "L2")  # levels that need the word of each token


@dataclass(frozen=True)
class Shape:
    """Sizes of a tower's levels: widths and map sides of the image levels, widths of the text levels, width of the embedding.

    text_widths is empty for a model whose text tower has no levels. words: whether the word of each token is known, without
    which there are no L1 and L2. sides: those that the model has.
    """

    image_widths: tuple[int, int, int, int]
    grids: tuple[int, int, int, int]
    text_widths: tuple[int, ...]
    embedding: int
    words: bool = True
    sides: tuple[Side, ...] = SIDES

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that the model gives."""
        text = TEXT_LEVELS if self.text_widths else ()
        return IMAGE_LEVELS + tuple(name for name in text if self.words or name not in OF_WORDS)


def tap_blocks(depth: int, cuts: tuple[float, ...]) -> list[int]:
    """Index of the last block of each group: 12 blocks at (1/4, 2/3, 1) give [2, 7, 11]."""
    return [max(1, round(depth * cut)) - 1 for cut in cuts]


def pool_words(
    tokens: Float[Tensor, "b l d"], words: Int[Tensor, "b l"], count: int, window: int = 1
) -> tuple[Float[Tensor, "b w d"], Bool[Tensor, "b w"]]:
    """Mean over the tokens of each word (or window of words); tokens of word -1 or beyond `count` enter nowhere."""
    member = (words[..., None] // window == torch.arange(count, device=words.device)).to(tokens.dtype)
    size = member.sum(1)
    mean = torch.einsum("blw,bld->bwd", member, tokens) / size.clamp_min(1)[..., None]
    return mean, size > 0


def mean_max(tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b e"]:
    """[mean ‖ max] over the real tokens of parameter-free layer-normed features, as the bridge reads a level."""
    return MeanMax.apply(F.layer_norm(tokens, tokens.shape[-1:]), mask)


class MeanMax(torch.autograd.Function):
    """[mean ‖ max] over tokens; bit for bit `naive_mean_max`, with its gradient in three passes over the tokens instead of nine."""

    @staticmethod
    def forward(ctx: Any, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b e"]:
        out = naive_mean_max(tokens, mask)
        ctx.save_for_backward(tokens, out, mask)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "b e"]) -> tuple[Float[Tensor, "b n d"], None]:
        tokens, out, mask = ctx.saved_tensors
        (_, peak), (of_mean, of_peak) = out.chunk(2, -1), gradient.chunk(2, -1)
        at_peak = tokens.clone().eq_(peak[:, None])  # ones and zeros in the dtype of the tokens: no pass that casts
        if mask is None:
            of_mean = (of_mean / tokens.shape[1])[:, None]
        else:
            at_peak *= mask[..., None]
            of_mean = (of_mean / mask.sum(1).clamp_min(1)[:, None])[:, None] * mask[..., None]
        shared = of_peak / at_peak.sum(1).clamp_min(1)  # tokens with the same largest value share its gradient
        return at_peak.mul_(shared[:, None]).add_(of_mean), None


def naive_mean_max(tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b e"]:
    """The reference: the mean and the maximum over the real tokens, each with its own gradient; an empty row gives zeros."""
    top = tokens if mask is None else tokens.masked_fill(~mask[..., None], float("-inf"))
    peak = top.amax(1)
    return torch.cat([mean_tokens(tokens, mask), torch.where(peak.isfinite(), peak, torch.zeros_like(peak))], dim=-1)


def summary_mean(summary: Float[Tensor, "b d"], mean: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
    """[summary ‖ mean] of the last level: (cls, mean of patches) or (end token, mean of tokens)."""
    return torch.cat([F.layer_norm(summary, summary.shape[-1:]), F.layer_norm(mean, mean.shape[-1:])], dim=-1)
