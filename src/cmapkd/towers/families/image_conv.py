"""ConvImage: an open_clip ResNet or a timm trunk of stages as an ImageTower."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmapkd.core.types import Features
from cmapkd.pyramid.maps import last_level
from cmapkd.towers.families.image_features import image_features, measured


def last_stages(visual: Any) -> list[int] | None:
    """Indices of the last four stages, None for an image tower that gives no intermediate maps."""
    if hasattr(visual, "layer4"):
        return [1, 2, 3, 4]
    trunk: Any = getattr(visual, "trunk", None)
    if not hasattr(trunk, "forward_intermediates"):
        return None
    stages = len(trunk.feature_info)
    return list(range(stages - 4, stages))


class ConvImage:
    """P2..P5 are the maps of the last four stages as tokens; P5 also gets its mean twice, as summary and as mean.

    taps: index of each of these stages.
    """

    single_scale = False

    def __init__(
        self, visual: nn.Module, stages: list[int], size: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self._visual: Any = visual
        self.size, self.mean, self.std, self.taps = size, mean, std, stages
        sizes = measured(visual, self.levels, size)
        self.widths, self.grids, self.embedding = sizes.widths, sizes.grids, sizes.embedding

    @property
    def native(self) -> nn.Module:
        return self._visual

    @property
    def patch(self) -> int:
        return self.size // self.grids[2]

    def levels(self, pixels: Float[Tensor, "b 3 s s"]) -> Features:
        out = self._visual.forward_intermediates(
            pixels, indices=self.taps, output_fmt="NCHW", output_extra_tokens=False
        )
        p2, p3, p4, p5 = (_tokens(each) for each in out["image_intermediates"])
        p5 = last_level(p5, None, round(p5.shape[1] ** 0.5))
        return image_features((p2, p3, p4, p5), out["image_features"])

    def encode(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b e"]:
        return self._visual(pixels)

    def channels_last(self) -> None:
        self._visual.to(memory_format=torch.channels_last)


def _tokens(stage: Tensor) -> Tensor:
    """[B, C, H, W] as tokens [B, H·W, C]; tokens stay as they are."""
    return stage.flatten(2).transpose(1, 2) if stage.ndim == 4 else stage


def conv_image(visual: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> ConvImage | None:
    """The adapter of a tower of stages, None for an image tower that gives no intermediate maps."""
    stages = last_stages(visual)
    return None if stages is None else ConvImage(visual, stages, size, mean, std)


IMAGE_TOWERS = {"conv": conv_image}
