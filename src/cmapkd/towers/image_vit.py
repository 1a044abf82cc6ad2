"""VitImage: an open_clip ViT or a timm ViT trunk as an ImageTower."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from cmapkd.core.types import Features
from cmapkd.pyramid import levels as lv
from cmapkd.pyramid.maps import last_level
from cmapkd.towers.image_features import image_features, measured


def vit_blocks(visual: Any) -> int | None:
    """Number of transformer blocks of a plain ViT, None for any other image tower."""
    if hasattr(visual, "transformer") and hasattr(visual, "class_embedding"):
        return len(visual.transformer.resblocks)
    trunk: Any = getattr(visual, "trunk", None)
    if hasattr(trunk, "forward_intermediates") and hasattr(trunk, "blocks") and hasattr(trunk, "patch_embed"):
        return len(trunk.blocks)
    return None


class VitImage:
    """P2, P3, P4 are the patch tokens after three groups of blocks; P5 is P4 at half the side, the class token and the mean.

    taps: index of the last block of each group.
    """

    single_scale = True

    def __init__(
        self, visual: nn.Module, blocks: int, size: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self._visual: Any = visual
        self.size, self.mean, self.std = size, mean, std
        self.taps = lv.tap_blocks(blocks, lv.IMAGE_CUTS)
        sizes = measured(visual, self.levels, size)
        self.widths, self.grids, self.embedding = sizes.widths, sizes.grids, sizes.embedding

    @property
    def native(self) -> nn.Module:
        return self._visual

    @property
    def patch(self) -> int:
        return self.size // self.grids[2]

    def levels(self, pixels: Float[Tensor, "b 3 s s"]) -> Features:
        out = self._visual.forward_intermediates(pixels, indices=self.taps, output_fmt="NLC", output_extra_tokens=True)
        p2, p3, p4 = (level.contiguous() for level in out["image_intermediates"])  # else each reader copies it again
        prefix = out.get("image_intermediates_prefix")
        class_token = prefix[-1][:, 0] if prefix else None
        side = -(-round(p4.shape[1] ** 0.5) // 2)
        return image_features((p2, p3, p4, last_level(p4, class_token, side)), out["image_features"])

    def encode(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b e"]:
        return self._visual(pixels)

    def channels_last(self) -> None:
        """No change: the only convolution of a plain ViT cuts the patches."""


def vit_image(visual: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> VitImage | None:
    """The adapter of a plain ViT, None for any other image tower."""
    blocks = vit_blocks(visual)
    return None if blocks is None else VitImage(visual, blocks, size, mean, std)


IMAGE_TOWERS = {"vit": vit_image}
