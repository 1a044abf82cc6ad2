"""open_samples: whatever the user's path is, sniffed or named, as Samples."""

from __future__ import annotations

import os
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.order import keyed
from cmapkd.data.readers.captions_json import is_coco, is_karpathy, load_json, read_coco, read_karpathy
from cmapkd.data.readers.flickr import looks_like, read_flickr
from cmapkd.data.readers.folder import read_folder
from cmapkd.data.readers.table import read_table
from cmapkd.data.samples import Samples
from cmapkd.data.scenes import SPLITS, write_scenes, write_single_objects

WORLD_VERSION = 1

READERS = {
    "coco": lambda path, data, split: read_coco(path, data.images),
    "karpathy": lambda path, data, split: read_karpathy(path, data.images, split),
    "flickr": lambda path, data, split: read_flickr(path, data.images, split),
    "csv": lambda path, data, split: read_table(path, data.images, data.image_key, data.text_key, data.separator),
    "folder": lambda path, data, split: read_folder(path, data.classes),
}


def open_samples(location: str, data: DataConfig, split: str | None = None) -> Samples:
    """Read `location`. Raises DataError or UsageError in one line: what, where, the rule, the way out."""
    if location.startswith("scenes:"):
        return read_scenes(location)
    path = Path(location).expanduser()
    if not path.exists():
        raise DataError(f"data: {path} does not exist; give a captions file, an image folder, or scenes:N for the built-in world")
    kind = sniff(path) if data.format == "auto" else data.format
    if kind == "folder" and not path.is_dir():
        raise DataError(f"data: {path} is a file, but format folder needs a folder with a sub-folder per class")
    if kind != "folder" and path.is_dir():
        raise DataError(f"data: {path} is a folder, but format {kind} needs the captions file in it")
    if kind not in READERS:
        raise UsageError(f"data.format {kind} does not read {path}; use one of auto, {', '.join(READERS)}")
    return READERS[kind](path, data, split)


def sniff(path: Path) -> str:
    """The format of a path by its content: coco, karpathy, flickr, csv or folder."""
    if path.is_dir():
        return "folder"
    if path.suffix.lower() == ".json":
        whole = load_json(path)
        if is_karpathy(whole):
            return "karpathy"
        if is_coco(whole):
            return "coco"
        raise DataError(f"{path}: a JSON file, but neither COCO captions (images, annotations) nor Karpathy (images with sentences)")
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    if looks_like(first):
        return "flickr"
    if path.suffix.lower() in {".csv", ".tsv", ".txt"}:
        return "csv"
    raise DataError(f"{path}: unknown kind of file; known: COCO or Karpathy JSON, Flickr token file, CSV/TSV, image folder")


def read_scenes(location: str) -> Samples:
    """`scenes:N[:SPLIT]` or `scenes:objects:N[:SPLIT]` of the built-in world, rendered once under $CMAPKD_DATA or ./data."""
    parts = location.split(":")[1:]
    single = bool(parts) and parts[0] == "objects"
    parts = parts[1:] if single else parts
    split = parts[1] if len(parts) == 2 else "train"
    if not parts or len(parts) > 2 or not parts[0].isdigit() or int(parts[0]) < 1 or split not in SPLITS:
        raise UsageError(f"data: '{location}' is not scenes:N[:SPLIT] with a whole number N and SPLIT one of {', '.join(SPLITS)}")
    root = Path(os.environ.get("CMAPKD_DATA", "data"))
    folder = root / f"scenes-v{WORLD_VERSION}-{'objects-' if single else ''}{split}-{parts[0]}"
    seed = keyed(WORLD_VERSION, SPLITS[split]) % 2**31
    if single:
        if not folder.is_dir():
            write_single_objects(folder, int(parts[0]), seed)
        return read_folder(folder, None)
    if not (folder / "captions.json").is_file():
        write_scenes(folder, int(parts[0]), seed)
    return read_coco(folder / "captions.json", folder / "images")
