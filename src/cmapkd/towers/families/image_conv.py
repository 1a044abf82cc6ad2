"""ConvImage: an open_clip ResNet or a timm trunk of stages as an ImageTower."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import Features
from cmapkd.pyramid.maps import last_level
from cmapkd.towers.families.image_features import image_features, measured

STAGES = 4  # P2..P5
SAFE_INPUTS = 16  # input channels from which on the CPU's kernel of a strided 1 × 1 convolution is sound


def last_stages(visual: Any) -> list[int] | None:
    """Indices of the last four stages, None for an image tower that gives no intermediate maps.

    Raises UsageError for a timm trunk of fewer stages.
    """
    if hasattr(visual, "layer4"):
        return [1, 2, 3, 4]
    trunk: Any = getattr(visual, "trunk", None)
    if not hasattr(trunk, "forward_intermediates"):
        return None
    stages = len(trunk.feature_info)
    if stages < STAGES:
        raise UsageError(
            f"image tower {type(trunk).__name__}: it has {stages} stages, but P2..P5 are the maps of four; use a trunk with "
            "four stages or more, or a ViT"
        )
    return list(range(stages - STAGES, stages))


def unsafe_channels_last(module: nn.Module) -> bool:
    """Whether a module on a CPU holds a convolution that may not be stored channels last.

    The backward pass of a strided 1 × 1 convolution of fewer than 16 input channels, such as that of a MobileOne stem, writes
    outside its memory there (docs/decisions/0023).
    """
    return any(
        isinstance(layer, nn.Conv2d)
        and layer.weight.device.type == "cpu"
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels < SAFE_INPUTS
        for layer in module.modules()
    )


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
            pixels.contiguous(), indices=self.taps, output_fmt="NCHW", output_extra_tokens=False
        )
        p2, p3, p4, p5 = (_tokens(each) for each in out["image_intermediates"])
        p5 = last_level(p5, None, round(p5.shape[1] ** 0.5))
        return image_features((p2, p3, p4, p5), out["image_features"])

    def encode(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b e"]:
        return self._visual(pixels.contiguous())

    def channels_last(self) -> None:
        """Also no change where a layer of this tower would break in that layout."""
        if not unsafe_channels_last(self._visual):
            self._visual.to(memory_format=torch.channels_last)


def _tokens(stage: Tensor) -> Tensor:
    """[B, C, H, W] as tokens [B, H·W, C]; tokens stay as they are."""
    return stage.flatten(2).transpose(1, 2) if stage.ndim == 4 else stage


def conv_image(visual: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> ConvImage | None:
    """The adapter of a tower of stages, None for an image tower that gives no intermediate maps."""
    stages = last_stages(visual)
    return None if stages is None else ConvImage(visual, stages, size, mean, std)


IMAGE_TOWERS = {"conv": conv_image}
