"""Which format a path is in, told from its content rather than its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmapkd.core.errors import DataError
from cmapkd.data.readers.flickr import TOKEN, is_header
from cmapkd.data.readers.folder import class_folders
from cmapkd.data.readers.text import neighbours, read_json

CAPTION_FILES = ("captions.json", "results.csv", "captions.txt", "Flickr8k.token.txt", "results_20130124.token")


def sniff(path: Path) -> tuple[str, Path]:
    """(format, file or folder to read). Raises DataError with what the path holds when it is none of ours."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path{neighbours(path)}")
    if path.is_dir():
        return _sniff_folder(path)
    if path.suffix.lower() == ".json":
        return _sniff_json(read_json(path), path), path
    head = first_line(path)
    bars = head.count("|") >= 2 and is_header(head)
    if TOKEN.match(head) or bars or head.strip().lower() == "image,caption":
        return "flickr", path
    if not head.strip():
        raise DataError(f"{path}: the file is empty; give a captions file")
    return "csv", path


def first_line(path: Path) -> str:
    """The first line, at most 4 KiB of it. Raises DataError for a binary file."""
    with path.open("rb") as file:
        head = file.read(4096)
    if b"\x00" in head:
        raise DataError(f"{path}: is a binary file, not captions; give a JSON, CSV, TSV or Flickr token file")
    return head.decode("utf-8-sig", errors="replace").split("\n", 1)[0].rstrip("\r")


def _sniff_folder(path: Path) -> tuple[str, Path]:
    for name in CAPTION_FILES:
        if (path / name).is_file():
            return sniff(path / name)
    if (path / "wnid_index.tsv").is_file() or (path / "val_annotations.txt").is_file():
        return "folder", path
    if len(class_folders(path)) > 1 or any(
        (path / split).is_dir() and class_folders(path / split) for split in ("train", "val")
    ):
        return "folder", path
    raise DataError(
        f"{path}: a folder without class folders or a captions file that is known by name{neighbours(path / '_')}; "
        "give the captions file itself"
    )


def _sniff_json(content: Any, path: Path) -> str:
    if isinstance(content, dict) and isinstance(images := content.get("images"), list):
        if images and isinstance(images[0], dict) and "sentences" in images[0]:
            return "karpathy"
        if "annotations" in content:
            return "coco"
    if isinstance(content, dict) and "questions" in content:
        raise DataError(f"{path}: holds VQA questions, not captions; give a captions file")
    keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else f"a {type(content).__name__}"
    raise DataError(
        f"{path}: neither COCO captions (images, annotations) nor Karpathy JSON (images with sentences); "
        f"it holds {keys}"
    )
