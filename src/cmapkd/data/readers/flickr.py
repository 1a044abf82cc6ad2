"""Flickr8k and Flickr30k: token files, Kaggle's results.csv, and captions.txt."""

from __future__ import annotations

from pathlib import Path

from cmapkd.core.errors import DataError
from cmapkd.data.readers.places import find_images
from cmapkd.data.samples import Samples, gather

LISTS = {"train": ("trainImages",), "val": ("devImages", "valImages"), "dev": ("devImages", "valImages"), "test": ("testImages",)}


def looks_like(first: str) -> bool:
    """`name.jpg#0<TAB>caption`, `image_name| comment_number| comment`, or `image,caption`."""
    return ("#" in first.split("\t")[0] and "\t" in first) or first.startswith(("image_name|", "image,caption"))


def read_flickr(path: Path, images: Path | None, split: str | None) -> Samples:
    """All captions of each image. `split` is a list file of image names, or train/val/test for the list beside it."""
    captions: dict[str, list[str]] = {}
    malformed = 0
    for number, line in enumerate(_lines(path)):
        parsed = _parse(line)
        if parsed is None:
            malformed += number > 0 and bool(line.strip())
            continue
        captions.setdefault(parsed[0], []).append(parsed[1])
    if not captions:
        raise DataError(f"{path}: no line reads `name.jpg#0<TAB>caption`, `name| 0| caption` or `name,caption`; see `cmapkd data inspect {path}`")
    notes = [f"{malformed} malformed lines skipped"] if malformed else []
    if split is not None:
        names = {line.strip() for line in _lines(_split_file(path, split)) if line.strip()}
        absent = len(names - set(captions))
        notes += [f"{absent} names of the split have no caption"] if absent else []
        captions = {name: texts for name, texts in captions.items() if name in names}
    folder = find_images(path, images, list(captions)[:20])
    rows = {name: (folder / name, texts) for name, texts in captions.items()}
    return gather(f"{path.name}{':' + Path(split).name if split else ''}", rows, notes)


def _parse(line: str) -> tuple[str, str] | None:
    if "\t" in line:
        name, _, caption = line.partition("\t")
        return name.rsplit("#", 1)[0], caption
    if "|" in line:
        parts = line.split("|", 2)
        return (parts[0].strip(), parts[2]) if len(parts) == 3 and parts[1].strip().isdigit() else None
    name, comma, caption = line.partition(",")
    return (name, caption) if comma and "." in name and name != "image" else None


def _split_file(path: Path, split: str) -> Path:
    direct = [Path(split), path.parent / split]
    usual = [f for key in LISTS.get(split, ()) for f in sorted(path.parent.glob(f"*{key}*.txt"))]
    for candidate in (*direct, *usual):
        if candidate.is_file():
            return candidate
    raise DataError(f"{path}: split {split!r} is neither a list file nor one of {', '.join(LISTS)} with a list file beside the captions")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()
