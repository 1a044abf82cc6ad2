"""Labelled image folders: a folder per class, Tiny ImageNet's layout, or files named by wnid with an index."""

from __future__ import annotations

from pathlib import Path

from cmapkd.core.errors import DataError
from cmapkd.data.samples import Samples

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
CAPTION = "a photo of a {}"


def read_folder(path: Path, classes: Path | None) -> Samples:
    """Images with labels; the caption of each is its class name in a sentence. `classes`: a file `folder<TAB>name`."""
    files = _by_class(path)
    if not files:
        raise DataError(f"{path}: no class folders with images ({', '.join(sorted(ENDINGS))}) here")
    names = _names(path, classes)
    keys = sorted(files)
    readable = [names.get(key, key.replace("_", " ")) for key in keys]
    rows = [(label, file) for label, key in enumerate(keys) for file in files[key]]
    return Samples(
        path.name,
        tuple(str(file.relative_to(path)) for _, file in rows),
        tuple(file for _, file in rows),
        tuple((CAPTION.format(readable[label]),) for label, _ in rows),
        tuple(label for label, _ in rows),
        tuple(readable),
    )


def _by_class(path: Path) -> dict[str, list[Path]]:
    listing = path / "val_annotations.txt"
    if listing.is_file():
        out: dict[str, list[Path]] = {}
        for line in listing.read_text().splitlines():
            name, wnid = line.split("\t")[:2]
            out.setdefault(wnid, []).append(path / "images" / name)
        return out
    index = path / "wnid_index.tsv"
    if index.is_file():
        return {file.stem: [file] for file in _images(path / "images")}
    out = {}
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        images = _images(folder) or _images(folder / "images")
        if images:
            out[folder.name] = images
    return out


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS)


def _names(path: Path, classes: Path | None) -> dict[str, str]:
    """Folder name → class name, from `classes`, words.txt or wnid_index.tsv beside the images; first synonym only."""
    for file in (classes, path / "wnid_index.tsv", path / "words.txt", path.parent / "words.txt"):
        if file is None:
            continue
        if file == classes and not file.is_file():
            raise DataError(f"data.classes {file}: no such file")
        if file.is_file():
            rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines() if "\t" in line]
            return {row[0]: row[-1].split(",")[0].strip() for row in rows}
    return {}
