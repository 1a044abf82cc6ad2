"""Detection of the format of a path, from its content rather than its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmapkd.core.errors import DataError
from cmapkd.data.readers.flickr import TOKEN, is_header
from cmapkd.data.readers.folders.folder import EXTENSIONS, class_folders
from cmapkd.data.readers.folders.imagenet import is_flat
from cmapkd.data.readers.folders.metadata import METADATA
from cmapkd.data.readers.hf import reader as hf
from cmapkd.data.readers.split_files import split_files
from cmapkd.data.readers.tar import webdataset
from cmapkd.data.readers.tar.shards import is_pattern
from cmapkd.data.readers.text import neighbours, read_json
from cmapkd.data.readers.vqa import questions_path

CAPTION_FILES = (
    "captions.json", "results.csv", "captions.txt", "Flickr8k.token.txt", "results_20130124.token",
    "Flickr30k.token.txt", "dataset_flickr30k.json", "dataset_flickr8k.json", "dataset_coco.json",
    "flickr_annotations_30k.csv",
)  # fmt: skip
INSIDE = ("annotations", "captions", "flickr30k_images", "flickr30k-images", "ILSVRC/Data/CLS-LOC")


def sniff(path: Path) -> tuple[str, Path]:
    """(format, file or folder to read). Raises DataError describing the path when its format is unknown."""
    if not path.exists():
        if is_pattern(str(path)) and ".tar" in path.name:
            return "webdataset", path
        raise DataError(f"{path}: no such file or folder; check the path{neighbours(path)}")
    if path.is_dir():
        if found := _sniff_folder(path):
            return found
        raise DataError(
            f"{path}: a folder without class folders and without a captions file of a known name{_within(path)}"
            f"{neighbours(path / '_')}; give the captions file itself"
            + (" or one of its data sets" if any(p.is_dir() for p in path.iterdir()) else "")
        )
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".json"] or suffixes == [".json", ".gz"]:
        return _sniff_json(read_json(path), path)
    if suffixes[-1:] == [".tar"] or suffixes == [".tar", ".gz"] or suffixes[-1:] == [".tgz"]:
        return "webdataset", path
    if suffixes[-1:] in ([".parquet"], [".arrow"], [".jsonl"]) or path.name in METADATA:
        return "hf", path
    head = first_line(path)
    bars = head.count("|") >= 2 and is_header(head)
    if TOKEN.match(head) or bars or head.strip().lower() == "image,caption":
        return "flickr", path
    if not head.strip():
        raise DataError(f"{path}: the file is empty; give a captions file")
    return "csv", path


def _within(path: Path) -> str:
    """The content of a folder of unknown format, for an error: data sets in its subfolders, or a number of images."""
    folders = [p for p in sorted(path.iterdir()) if p.is_dir()][:20]
    known = [f"{p.name} ({found[0]})" for p in folders if (found := _sniff_folder(p))]
    if known:
        return f"; data sets in it: {', '.join(known)}"
    images = sum(p.suffix.lower() in EXTENSIONS for p in path.iterdir())
    return f"; {images} images in it" if images else ""


def first_line(path: Path) -> str:
    """The first line, at most 4 KiB of it. Raises DataError for a binary file."""
    with path.open("rb") as file:
        head = file.read(4096)
    if b"\x00" in head:
        raise DataError(f"{path}: is a binary file, not captions; give a JSON, CSV, TSV or Flickr token file")
    return head.decode("utf-8-sig", errors="replace").split("\n", 1)[0].rstrip("\r")


def _sniff_folder(path: Path) -> tuple[str, Path] | None:
    """The format of a folder: captions take precedence over labels, questions, boxes and containers, in this order."""
    places = [path, *(path / name for name in INSIDE if (path / name).is_dir())]
    for place in places:
        for name in CAPTION_FILES:
            if (place / name).is_file():
                return sniff(place / name)
    return _split_captions(path) or next((found for place in places if (found := _labelled_or_packed(place))), None)


def _split_captions(path: Path) -> tuple[str, Path] | None:
    if (path / "region_descriptions.json").is_file():
        return "visual_genome", path / "region_descriptions.json"
    if split_files(path, "coco"):
        return "coco", path
    described = any((path / name / file).is_file() for name in hf.FOLDERS for file in METADATA)
    saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    return ("hf", path) if described or saved else None


def _labelled_or_packed(path: Path) -> tuple[str, Path] | None:
    if (path / "wnid_index.tsv").is_file() or (path / "val_annotations.txt").is_file():
        return "folder", path
    if (kind := next((kind for kind in ("vqa", "instances") if split_files(path, kind)), None)) is not None:
        return kind, path
    splits = [path / name for name in ("train", "val") if (path / name).is_dir()]
    if len(class_folders(path)) > 1 or is_flat(path) or any(class_folders(s) or is_flat(s) for s in splits):
        return "folder", path
    if any(p.suffix == ".tar" for p in path.iterdir()) or webdataset.split_folders(path):
        return "webdataset", path
    return ("hf", path) if hf.split_files(path) else None


def _sniff_json(content: Any, path: Path) -> tuple[str, Path]:
    first = next(iter(content), None) if isinstance(content, list) else None
    if isinstance(first, dict) and isinstance(first.get("regions"), list):
        return "visual_genome", path
    if isinstance(content, dict) and isinstance(images := content.get("images"), list):
        if images and isinstance(images[0], dict) and "sentences" in images[0]:
            return "karpathy", path
        if "annotations" in content:
            rows = content["annotations"] if isinstance(content["annotations"], list) else []
            boxes = bool(rows) and isinstance(rows[0], dict) and "bbox" in rows[0] and "caption" not in rows[0]
            boxes |= not rows and "categories" in content
            return ("instances" if boxes else "coco"), path
    if isinstance(content, dict) and "questions" in content:
        return "vqa", path
    if isinstance(content, dict) and "annotations" in content and (asked := questions_path(path)) is not None:
        return "vqa", asked
    keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else f"a {type(content).__name__}"
    raise DataError(
        f"{path}: neither COCO captions (images, annotations) nor Karpathy JSON (images with sentences), VQA questions "
        f"nor Visual Genome's regions; it holds {keys}"
    )
