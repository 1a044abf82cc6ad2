"""Boxes: images with annotated objects, as in COCO instances."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cmapkd.data.images import FORMATS, Unreadable
from cmapkd.data.stored import stored_length


@dataclass(frozen=True)
class Boxes:
    """Images with boxes: one entry per image in every tuple, with empty arrays for an image without objects.

    boxes: float64 [k, 4] left, top, width, height in the pixels of the original image, whose (width, height) is in
    sizes; the files may have been resized since. paths: empty when the images were not asked for. category_ids, iscrowd:
    int64 [k]; area: float64 [k]. categories: names by id; ids may have gaps. notes: what the reader dropped, and why.
    """

    name: str
    image_ids: tuple[int, ...]
    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    boxes: tuple[np.ndarray, ...]
    category_ids: tuple[np.ndarray, ...]
    iscrowd: tuple[np.ndarray, ...]
    area: tuple[np.ndarray, ...]
    categories: Mapping[int, str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def n_boxes(self) -> int:
        return sum(len(boxes) for boxes in self.boxes)

    def fingerprint(self) -> str:
        """SHA-256 over image ids, file sizes, boxes and categories."""
        digest = hashlib.sha256()
        digest.update(repr(sorted(self.categories.items())).encode("utf-8", "surrogatepass"))
        lengths = [stored_length(path) for path in self.paths] or [-1] * len(self)
        rows = zip(self.image_ids, lengths, self.boxes, self.category_ids, self.iscrowd, strict=True)
        for key, length, boxes, labels, crowds in rows:
            digest.update(f"{key}\x1f{length}\x1f{len(boxes)}\x1e".encode())
            for column in (boxes, labels, crowds):
                digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def in_file(self, image: int) -> np.ndarray:
        """float64 [k, 4]: the boxes of an image, scaled to the pixels of its file. Raises Unreadable."""
        return scaled(self.boxes[image], self.sizes[image], file_size(self.paths[image]))

    def subset(self, indices: np.ndarray) -> Boxes:
        pick = [int(i) for i in indices]
        columns = ("image_ids", "paths", "sizes", "boxes", "category_ids", "iscrowd", "area")
        kept = [column for column in columns if column != "paths" or self.paths]
        return replace(self, **{column: tuple(getattr(self, column)[i] for i in pick) for column in kept})


def scaled(boxes: np.ndarray, was: tuple[int, int], now: tuple[int, int]) -> np.ndarray:
    """Boxes [k, 4] after resizing an image: x and width × now_w/was_w, y and height × now_h/was_h."""
    across, down = now[0] / was[0], now[1] / was[1]
    return boxes * np.array([across, down, across, down])


def file_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header of an image file, without decoding it. Raises Unreadable."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unreadable(path, reason[:160]) from None
