"""ModuleImage: a user's own backbone as an ImageTower."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from cmapkd.core.types import Features
from cmapkd.pyramid.maps import last_level
from cmapkd.towers.families.image_features import image_features, measured
from cmapkd.towers.sources.module import UserVisual


class ModuleImage:
    """P2..P5 are the outputs of the module's four taps; P5 also gets its mean twice, as summary and as mean."""

    def __init__(self, visual: UserVisual, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._visual = visual
        self.size, self.mean, self.std = size, mean, std
        sizes = measured(visual, self.levels, size)
        self.widths, self.grids, self.embedding = sizes.widths, sizes.grids, sizes.embedding
        self.single_scale = len(set(self.grids[:3])) == 1

    @property
    def native(self) -> nn.Module:
        return self._visual

    @property
    def patch(self) -> int:
        return max(1, self.size // self.grids[2])

    def levels(self, pixels: Float[Tensor, "b 3 s s"]) -> Features:
        (p2, p3, p4, p5), final = self._visual.levels(pixels)
        return image_features((p2, p3, p4, last_level(p5, None, round(p5.shape[1] ** 0.5))), final)

    def encode(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b e"]:
        return self._visual(pixels)

    def channels_last(self) -> None:
        """No change: the layout of a user's module is the user's."""


def module_image(visual: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> ModuleImage | None:
    """The adapter of a user's backbone, None for any other image tower."""
    return ModuleImage(visual, size, mean, std) if isinstance(visual, UserVisual) else None


IMAGE_TOWERS = {"module": module_image}
