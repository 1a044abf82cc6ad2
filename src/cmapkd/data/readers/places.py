"""Where the image files of a captions file are."""

from __future__ import annotations

from pathlib import Path

from cmapkd.core.errors import DataError

USUAL = ("images", "Images", ".", "../images", "../Images", "train2017", "val2017", "train2014", "val2014",
         "../train2017", "../val2017", "../train2014", "../val2014", "flickr30k_images", "Flicker8k_Dataset", "..")  # fmt: skip


def find_images(captions: Path, given: Path | None, names: list[str]) -> Path:
    """The folder in which most of `names` exist: `given`, or the usual places around the captions file."""
    if given is not None:
        if not given.is_dir():
            raise DataError(f"data.images {given}: no such folder")
        return given
    folders = [captions.parent / place for place in USUAL]
    found = max(folders, key=lambda folder: sum((folder / name).is_file() for name in names))
    if names and not any((found / name).is_file() for name in names):
        raise DataError(f"{captions}: its images (such as {names[0]!r}) are in none of the usual folders beside it; set data.images")
    return found
