"""PROTOCOLS of retrieval: the captions that count, the number of folds, and the counts of a benchmark's split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cmapkd.core.errors import DataError


@dataclass(frozen=True)
class Protocol:
    """images, captions: counts that the split must have (None: any). names: pattern of the benchmark's image files.

    first: only the first caption of each image counts. folds: number of equal parts that figures are means over.
    """

    about: str
    images: int | None = None
    captions: tuple[int, ...] = ()
    names: str = ""
    first: bool = False
    folds: int = 1


COCO = {"images": 5000, "captions": (25010, 25000), "names": r"(COCO_val2014_)?\d{12}\.jpg"}
# The first is the default.
PROTOCOLS = {
    "standard": Protocol("every caption is a query, any of an image's captions is a hit"),
    "first-caption": Protocol("one caption an image, its first; not comparable with standard", first=True),
    "flickr30k-1k": Protocol(
        "standard on Flickr30K's test split of 1,000 images", 1000, (5000,), r"\d{5,10}\.jpg"
    ),
    "coco-5k": Protocol("standard on COCO's Karpathy test split of 5,000 images", **COCO),
    "coco-1k": Protocol("the mean of five folds of 1,000 images of COCO's Karpathy test split", **COCO, folds=5),
}  # fmt: skip


def check_split(name: str, images: Sequence[str], captions: int, where: str) -> tuple[str, ...]:
    """A note if the image files are not named as the benchmark's. Raises DataError for other counts than its split's.

    images: the names of the image files.
    """
    wanted = PROTOCOLS[name]
    if wanted.images is None:
        return ()
    if len(images) != wanted.images or captions not in wanted.captions:
        counts = " or ".join(f"{count:,}" for count in sorted(wanted.captions))
        raise DataError(
            f"retrieval: protocol {name} is {wanted.images:,} images with {counts} captions, but {where} holds "
            f"{len(images):,} with {captions:,}; give that split (Karpathy's test), or protocol standard"
        )
    if odd := next((image for image in images if not re.fullmatch(wanted.names, image)), None):
        return (f"the counts are {name}'s, but the images are not named as its are (first: {odd!r})",)
    return ()


def folds(n: int, count: int) -> list[range]:
    """0..n in `count` consecutive parts of equal length."""
    size = n // count
    return [range(k * size, (k + 1) * size) for k in range(count)]
