"""Labelled image folders: one folder per class, ImageNet and Tiny ImageNet, or files listed in a wnid_index.tsv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.gathering import gather
from cmapkd.data.readers.folders.class_names import class_names, readable, repeated
from cmapkd.data.readers.folders.imagenet import flat_validation, is_flat
from cmapkd.data.readers.split_files import refuse_split
from cmapkd.data.readers.text import read_text
from cmapkd.data.samples import Samples

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
CAPTION = "a photo of a {}"
SPLITS = ("train", "val", "validation", "test")


def read_folder(path: Path, data: DataConfig, split: str | None) -> Samples:
    """Labelled samples, each with a caption made from its class name. Raises DataError without class folders."""
    if not path.is_dir():
        raise DataError(f"{path}: is a file, but data.format: folder needs a folder of class folders")
    if (path / "wnid_index.tsv").is_file():
        refuse_split(path, split)
        return _listed(path, data)
    root = _split_folder(path, split)
    if (root / "val_annotations.txt").is_file():
        return _tiny_val(root, data)
    folders = class_folders(root)
    if not folders and is_flat(root):
        images, wnids = flat_validation(root)
        return _labelled(str(root.name), images, class_names(root, wnids, data.classes))
    if not folders:
        images = sum(p.suffix.lower() in EXTENSIONS for p in root.iterdir())
        raise DataError(
            f"{root}: {images} images but no class folders; give a captions file, or make one folder per class"
        )
    keys = tuple(folder.name for folder in folders)
    found = [(f"{folder.name}/{p.name}", p, label) for label, folder in enumerate(folders) for p in images_of(folder)]
    return _labelled(str(root.name), found, class_names(root, keys, data.classes))


def class_folders(root: Path) -> list[Path]:
    """Subfolders that hold images, directly or in `images/`, sorted as torchvision sorts them."""
    return [p for p in sorted(root.iterdir()) if p.is_dir() and images_of(p)]


def images_of(folder: Path) -> list[Path]:
    for place in (folder, folder / "images"):
        if place.is_dir() and (found := sorted(p for p in place.iterdir() if p.suffix.lower() in EXTENSIONS)):
            return found
    return []


def _split_folder(path: Path, split: str | None) -> Path:
    """The folder of a split, where `path` holds train/, val/ … instead of classes."""
    splits = [name for name in SPLITS if (path / name).is_dir()]
    if not splits:
        refuse_split(path, split)
        return path
    if split is None:
        raise UsageError(
            f"{path}: holds {', '.join(splits)}; give one of these folders, or a split (--split; data.train_split, data.val_split)"
        )
    if split not in splits:
        raise UsageError(f"{path}: has no split '{split}'; it holds {', '.join(splits)}")
    return path / split


def _tiny_val(root: Path, data: DataConfig) -> Samples:
    rows = [line.split("\t") for line in read_text(root / "val_annotations.txt").splitlines() if line.strip()]
    if any(len(row) < 2 for row in rows):
        raise DataError(f"{root / 'val_annotations.txt'}: rows must read `file<TAB>wnid…`")
    wnids = root.parent / "wnids.txt"
    keys = tuple(sorted(set(read_text(wnids).split()) if wnids.is_file() else {row[1] for row in rows}))
    label = {key: number for number, key in enumerate(keys)}
    if unknown := next((row[1] for row in rows if row[1] not in label), None):
        raise DataError(f"{root / 'val_annotations.txt'}: class {unknown} is not in {wnids}; the two files must agree")
    found = [(row[0], root / "images" / row[0], label[row[1]]) for row in rows]
    return _labelled(f"{root.parent.name}/{root.name}", found, class_names(root, keys, data.classes))


def _listed(path: Path, data: DataConfig) -> Samples:
    rows = [line.split("\t") for line in read_text(path / "wnid_index.tsv").splitlines() if line.strip()]
    header, entries = rows[0], rows[1:]
    if missing := {"index", "wnid", "name_in_file", "file"} - set(header):
        raise DataError(f"{path / 'wnid_index.tsv'}: no column {sorted(missing)}; columns found: {', '.join(header)}")
    at = {name: header.index(name) for name in header}
    entries = sorted(entries, key=lambda row: int(row[at["index"]]))
    names = tuple(readable(row[at["name_in_file"]]) for row in entries)
    if data.classes is not None:
        names = class_names(path, tuple(row[at["wnid"]] for row in entries), data.classes)
    found = [(row[at["file"]], path / row[at["file"]], label) for label, row in enumerate(entries)]
    return _labelled(path.name, found, names)


def _labelled(name: str, found: list[tuple[str, Path, int]], classes: tuple[str, ...]) -> Samples:
    labels = {key: label for key, _, label in found}
    rows = {key: (path, [CAPTION.format(classes[label])]) for key, path, label in found}
    samples = gather(name, rows)
    samples = replace(samples, notes=(*samples.notes, *repeated(classes)))
    return replace(samples, labels=tuple(labels[key] for key in samples.ids), classes=classes)
