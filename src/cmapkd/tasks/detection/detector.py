"""Detector: torchvision's FCOS head on a tower's levels P2..P5, and the conversion of box coordinates.

FCOS (Tian et al. 2019, arXiv:1904.01355) predicts a box, a class and a centredness at every cell of every level. A plain
transformer has one grid, so that the levels' strides are formed by learnt resizing as in ViTDet (Li et al. 2022,
arXiv:2203.16527), except that each level starts from its own blocks; a convolutional tower's stages are strides already.
A feature pyramid network (Lin et al. 2017, arXiv:1612.03144) then joins them from the top down.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.ops import FeaturePyramidNetwork

from cmapkd.core.errors import UsageError
from cmapkd.core.types import IMAGE_LEVELS
from cmapkd.pyramid.maps import split_map
from cmapkd.towers.dual import DualEncoder

UPSAMPLING = (4, 2, 1, 1)  # of a plain transformer's P2..P5; its P5 is the half-sided map of the tower
GROUPS = 32  # of FCOS's group norms


class Detector(nn.Module):
    """Finds boxes of `num_classes` classes in square images. The tower stays in eval mode, and frozen unless `train_trunk`.

    channels: width of the pyramid and of the head, a multiple of 32. convs: convolutions of either branch of the head.
    score_threshold: boxes with a lower score are dropped; keep it low for average precision. most: boxes per image.
    """

    def __init__(
        self,
        tower: DualEncoder,
        num_classes: int,
        channels: int = 256,
        convs: int = 4,
        train_trunk: bool = False,
        score_threshold: float = 0.05,
        most: int = 100,
    ) -> None:
        super().__init__()
        if channels % GROUPS:
            raise UsageError(f"the detector's channels are {channels}; they must be a multiple of {GROUPS}")
        if num_classes < 1:
            raise UsageError("a detector needs at least one class")
        self.size, self.train_trunk = tower.size, train_trunk
        head = FCOSHead(channels, 1, num_classes, convs)
        # Distances to a box's sides pass a ReLU. Started at 0, half of them have no gradient, and with a high rate a
        # side may never wake up; started at one cell, every side learns from the first step.
        nn.init.ones_(cast(Tensor, head.regression_head.bbox_reg.bias))
        # torchvision's own resizing and normalising are switched off: the tower does both its own way.
        self.fcos = FCOS(
            TowerPyramid(tower, channels, train_trunk), num_classes, min_size=tower.size, max_size=tower.size,
            image_mean=[0.0] * 3, image_std=[1.0] * 3, anchor_generator=Cells(),
            head=head, score_thresh=score_threshold, detections_per_img=most,
            size_divisible=1, _skip_resize=True,
        )  # fmt: skip
        self.train(self.training)

    @property
    def tower(self) -> DualEncoder:
        return cast(TowerPyramid, self.fcos.backbone).tower

    def forward(
        self, images: UInt8[Tensor, "b 3 s s"], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """While training the losses {classification, bbox_regression, bbox_ctrness}, else the boxes found in each image.

        targets and findings: per image {boxes: float [k, 4] left, top, right, bottom in the tower's pixels, labels:
        int64 [k] from 0}, findings with {scores: float [k]} in falling order. A target may be empty, its boxes not.
        """
        return self.fcos(list(images.float()), None if targets is None else list(targets))

    def losses(self, images: UInt8[Tensor, "b 3 s s"], targets: Sequence[dict[str, Tensor]]) -> tuple[Tensor, ...]:
        """The losses of a batch from any device: classes, sides, centredness. Only while training."""
        device = self.tower.device
        found = self(images.to(device), [{key: value.to(device) for key, value in one.items()} for one in targets])
        assert isinstance(found, dict), "the detector was left in eval mode"
        return tuple(found.values())

    def train(self, mode: bool = True) -> Detector:
        """Training mode of all but the tower, whose batch statistics and dropout would move with small batches."""
        super().train(mode)
        self.tower.eval()
        return self

    def learnt(self) -> list[nn.Parameter]:
        """Pyramid and head, without the tower."""
        inside = {id(p) for p in self.tower.parameters()}
        return [p for p in self.parameters() if id(p) not in inside]

    def trunk(self) -> list[nn.Parameter]:
        """The image trunk's parameters if it is trained, else none."""
        return list(self.tower.image.native.parameters()) if self.train_trunk else []


class TowerPyramid(nn.Module):
    """Pixels to P2..P5 of one width, each at its own stride: the backbone that torchvision's heads ask for."""

    tower: DualEncoder

    def __init__(self, tower: DualEncoder, channels: int, train_trunk: bool) -> None:
        super().__init__()
        self.tower, self.out_channels, self.train_trunk = tower, channels, train_trunk
        widths = tower.shape.image_widths
        factors = UPSAMPLING if tower.image.single_scale else (1,) * len(widths)
        self.enter = nn.ModuleList(nn.Sequential(nn.LayerNorm(w), nn.Linear(w, channels)) for w in widths)
        self.grow = nn.ModuleList(nn.Sequential(*_doublings(channels, factor)) for factor in factors)
        self.join = FeaturePyramidNetwork([channels] * len(widths), channels)

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> OrderedDict[str, Tensor]:
        """{P2..P5: [B, C, H_k, H_k]}, fine to coarse, of pixels in 0..255."""
        with torch.set_grad_enabled(self.train_trunk and torch.is_grad_enabled()):
            levels = self.tower.image.levels(self.tower.normalise(images)).levels
        maps = [
            split_map(name, tokens)[0] for name, tokens in zip(IMAGE_LEVELS, levels, strict=True)
        ]  # of a place in the image
        entered = [_square(enter(tokens)) for enter, tokens in zip(self.enter, maps, strict=True)]
        grown = [grow(x) for grow, x in zip(self.grow, entered, strict=True)]
        return self.join(OrderedDict(zip(IMAGE_LEVELS, grown, strict=True)))


class Cells(AnchorGenerator):
    """One anchor per cell and level: the cell itself.

    torchvision's generator cuts strides to whole pixels, which would leave part of the image without anchors where the
    side is no multiple of the grid (patches of 14 at four times their grid: 3.5 pixels), and sits on the cells' corners.
    """

    def __init__(self) -> None:
        super().__init__(((1,),) * len(IMAGE_LEVELS), ((1.0,),) * len(IMAGE_LEVELS))

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        size = image_list.tensors.shape[-1]
        cells = torch.cat([_cells(size, maps.shape[-1]).to(image_list.tensors) for maps in feature_maps])
        return [cells] * len(image_list.image_sizes)


def to_tower(boxes: Float[Tensor, "k 4"], image: tuple[int, int], size: int) -> Float[Tensor, "k 4"]:
    """(left, top, width, height) in pixels of an image (width, height) to (left, top, right, bottom) of size × size."""
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    return corners * (size / boxes.new_tensor([*image, *image]))


def from_tower(boxes: Float[Tensor, "k 4"], image: tuple[int, int], size: int) -> Float[Tensor, "k 4"]:
    """The inverse of `to_tower`."""
    corners = boxes * (boxes.new_tensor([*image, *image]) / size)
    return torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)


def _cells(size: int, side: int) -> Float[Tensor, "n 4"]:
    """Corners of side × side cells of a square of `size` pixels, row by row."""
    edges = torch.arange(side + 1, dtype=torch.float64) * (size / side)
    top, left = torch.meshgrid(edges[:-1], edges[:-1], indexing="ij")
    bottom, right = torch.meshgrid(edges[1:], edges[1:], indexing="ij")
    return torch.stack([left, top, right, bottom], dim=-1).flatten(0, 1)


def _square(tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b d m m"]:
    return tokens.transpose(1, 2).unflatten(2, (round(tokens.shape[1] ** 0.5),) * 2)


def _doublings(channels: int, factor: int) -> Iterator[nn.Module]:
    """Learnt doublings of a map's side until it is `factor` times as long."""
    while factor > 1:
        yield nn.ConvTranspose2d(channels, channels, 2, stride=2)
        yield nn.GroupNorm(GROUPS, channels)
        yield nn.GELU()
        factor //= 2
