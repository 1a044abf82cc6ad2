"""Encoders: a model's two encoders under open_clip's names, whatever library it is of."""

from __future__ import annotations

from torch import Tensor, nn

from cmapkd.towers.dual import DualEncoder


class Encoders(nn.Module):
    """The two encoders of a model under the names that an open_clip CLIP gives them."""

    def __init__(self, tower: DualEncoder) -> None:
        super().__init__()
        self.native = tower.native
        self._tower = [tower]  # in a list, so that its parameters are not registered twice

    @property
    def visual(self) -> nn.Module:
        return self._tower[0].image.native

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self._tower[0].image.encode(pixels)

    def encode_text(self, ids: Tensor) -> Tensor:
        return self._tower[0].text.encode(ids)
