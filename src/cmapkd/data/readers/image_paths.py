"""Locating the images of a captions file: in data.images, or beside the file under conventional folder names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cmapkd.core.errors import DataError
from cmapkd.data.samples import is_file
from cmapkd.data.stored import file_length

FOLDERS = (
    "", "images", "Images", "train2017", "val2017", "train2014", "val2014", "train", "val",
    "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k_images", "flickr30k-images",
    "flickr30k_images/flickr30k_images", "flickr30k-images/flickr30k-images", "test2015", "VG_100K", "VG_100K_2",
    "VG_100K_2/VG_100K_2",
)  # fmt: skip
COCO_2014 = re.compile(r"^COCO_(?:train|val)2014_")
PROBES = 64


def locate(captions: Path, images: Path | None, names: Sequence[str]) -> Iterator[Path]:
    """Yield one path per image name, see `locate_sized`."""
    return (Path(path) for path, _ in locate_sized(captions, images, names))


def locate_sized(captions: Path, images: Path | None, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield (path, size in bytes) per image name; one that is not found gets its most likely path, and −1.

    Names are tried unchanged, without their folder, and without COCO's 2014 prefix. Raises DataError when none of a
    sample of the names is found.
    """
    if images is not None and not images.is_dir():
        raise DataError(
            f"{images}: data.images is not a folder; give the folder that holds {next(iter(names), 'the images')!r}"
        )
    bases = [images] if images is not None else [captions.parent, captions.parent.parent]
    probes = names[:: max(1, len(names) // PROBES)]
    places = []
    for base in bases:
        for folder in FOLDERS:
            root = base / folder
            if root.is_dir():
                places += [(hits, root, spell) for spell in SPELLINGS if (hits := _hits(root, spell, probes))]
    if names and not places:
        tried = (
            images
            if images is not None
            else f"{captions.parent} and its parent (and images/, Images/, train2017/ … in them)"
        )
        raise DataError(
            f"{captions}: none of its images, such as {names[0]!r}, is in {tried}; set data.images (--images) to their folder"
        )
    places.sort(key=lambda place: -place[0])
    return (_first(places, name) for name in names)


def _hits(root: Path, spell: Callable[[str], str], probes: Sequence[str]) -> int:
    return sum(is_file(root / spell(name)) for name in probes)


def _first(places: list[tuple[int, Path, Callable[[str], str]]], name: str) -> tuple[str, int]:
    likely = ""
    for _, root, spell in places:
        path = os.path.join(root, spell(name))  # noqa: PTH118: several times faster
        likely = likely or path
        try:
            length = file_length(path)
        except (OSError, ValueError):  # a name that no file can have
            continue
        if length >= 0:
            return path, length
    return likely, -1


def _as_given(name: str) -> str:
    return name


def _without_folder(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _coco_2017(name: str) -> str:
    return COCO_2014.sub("", _without_folder(name))


SPELLINGS = (_as_given, _without_folder, _coco_2017)
