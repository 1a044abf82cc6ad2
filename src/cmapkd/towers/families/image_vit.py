"""VitImage: an open_clip ViT or a timm ViT trunk as an ImageTower."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from cmapkd.core.types import Features
from cmapkd.pyramid import levels as lv
from cmapkd.pyramid.maps import last_level
from cmapkd.towers.families.image_features import image_features, measured


def vit_blocks(visual: Any) -> int | None:
    """Number of transformer blocks of a plain ViT, whose blocks all read one grid; None for any other image tower."""
    if hasattr(visual, "transformer") and hasattr(visual, "class_embedding"):
        return len(visual.transformer.resblocks)
    trunk: Any = getattr(visual, "trunk", None)
    if hasattr(trunk, "forward_intermediates") and hasattr(trunk, "blocks") and hasattr(trunk, "num_prefix_tokens"):
        scales = {stage["reduction"] for stage in trunk.feature_info}
        return len(trunk.feature_info) if len(scales) == 1 else None
    return None


def reads_class_token(visual: Any) -> bool:
    """Whether a ViT's embedding is formed from its class token, alone or with others; not where it is a mean of patches."""
    trunk: Any = getattr(visual, "trunk", None)
    if trunk is None:
        return visual.attn_pool is not None or visual.pool_type == "tok"
    return getattr(trunk, "cls_token", None) is not None and trunk.global_pool not in ("avg", "avgmax", "max")


class VitImage:
    """P2, P3, P4 are the patch tokens after three groups of blocks; P5 is P4 at half the side, a summary and the mean.

    The summary is the class token, and the mean of the patches again where the tower does not read a class token.
    taps: index of the last block of each group.
    """

    single_scale = True

    def __init__(
        self, visual: nn.Module, blocks: int, size: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self._visual: Any = visual
        self.size, self.mean, self.std = size, mean, std
        self.taps = lv.tap_blocks(blocks, lv.IMAGE_CUTS)
        self._class_token = reads_class_token(visual)
        sizes = measured(visual, self.levels, size)
        self.widths, self.grids, self.embedding = sizes.widths, sizes.grids, sizes.embedding

    @property
    def native(self) -> nn.Module:
        return self._visual

    @property
    def patch(self) -> int:
        return self.size // self.grids[2]

    def levels(self, pixels: Float[Tensor, "b 3 s s"]) -> Features:
        # Some trunks of timm fail when asked for tokens before the patches that they do not have.
        extra = {"output_extra_tokens": True} if self._class_token else {}
        out = self._visual.forward_intermediates(pixels, indices=self.taps, output_fmt="NLC", **extra)
        taken = sorted(set(self.taps))  # of fewer than three blocks, one belongs to more than one group
        found = [level.contiguous() for level in out["image_intermediates"]]  # else each reader copies it again
        p2, p3, p4 = (found[taken.index(tap)] for tap in self.taps)
        class_token = out["image_intermediates_prefix"][-1][:, 0] if self._class_token else None
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
