"""Fixed augmentations: view v of image i is always the same crop, so that cached teacher features fit it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cmapkd.core.order import keyed_hash

VIEW_SEED = 0  # not the seed of the run: views belong to the data, and all runs of a comparison share the cache
ASPECT = 4 / 3


@dataclass(frozen=True)
class View:
    """A crop, in fractions of width and height, and whether it is flipped."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    flip: bool = False


def view_of(sample: int, view: int, views: int, crop: tuple[float, float], flip: bool) -> View:
    """View number `view` of an image: the whole image if views = 1, else a random crop of a share `crop` of its area."""
    if views == 1:
        return View()
    rng = np.random.default_rng(keyed_hash(VIEW_SEED, sample, view))
    area = rng.uniform(*crop)
    stretch = math.exp(rng.uniform(-math.log(ASPECT), math.log(ASPECT)) / 2)
    width, height = min(1.0, math.sqrt(area) * stretch), min(1.0, math.sqrt(area) / stretch)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return View(left, top, left + width, top + height, flip and bool(rng.integers(2)))


def render(image: Image.Image, view: View, size: int) -> np.ndarray:
    """uint8 [3, size, size]: the crop of a view from an RGB image, resized with an antialiasing bicubic filter."""
    w, h = image.size
    box = (view.left * w, view.top * h, view.right * w, view.bottom * h)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return np.ascontiguousarray((pixels[:, ::-1] if view.flip else pixels).transpose(2, 0, 1))


def plain(image: Image.Image, size: int) -> np.ndarray:
    """uint8 [3, size, size] for evaluation: the centre square of the image, resized."""
    w, h = image.size
    side = min(w, h)
    left, top = (w - side) / 2, (h - side) / 2
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))
