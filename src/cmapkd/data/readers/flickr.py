"""Flickr8k and Flickr30k captions: `name.jpg#0<TAB>caption`, Kaggle's results.csv with `|`, `image,caption` rows."""

from __future__ import annotations

import re
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.gathering import gather
from cmapkd.data.readers.image_paths import locate
from cmapkd.data.readers.text import read_text
from cmapkd.data.samples import Samples

TOKEN = re.compile(r"^(?P<name>[^\t]+)#\d+\t(?P<caption>.*)$")
COMMENT = re.compile(r"^\s*\d+\s+")
SYNONYMS = {"val": ("val", "dev"), "dev": ("dev", "val")}


def read_flickr(path: Path, data: DataConfig, split: str | None) -> Samples:
    """The images of a split list, or all images without one. Malformed rows are counted in the notes."""
    captions: dict[str, list[str]] = {}
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    malformed = []
    for number, line in enumerate(lines):
        row = parse_row(line, lines[0])
        if row is not None:
            captions.setdefault(row[0], []).append(row[1])
        elif number > 0 or not is_header(line):
            malformed.append(number + 1)
    if not captions:
        raise DataError(
            f"{path}: no row reads `name.jpg#0<TAB>caption`, `name.jpg| 0| caption` or `name.jpg,caption`; "
            f"first row: {lines[0][:60]!r}; for other columns set data.format: csv"
            if lines else f"{path}: the file is empty; give a captions file"
        )  # fmt: skip
    notes = [f"{len(malformed)} malformed rows dropped (first: line {malformed[0]})"] if malformed else []
    names = list(captions)
    if split not in (None, "all"):
        listed = set(_names(split_list(path, split)))  # the lists of Flickr30k Entities omit `.jpg`
        names = [name for name in captions if name in listed or name.rsplit(".", 1)[0] in listed]
        if absent := len(listed) - len(names):
            notes.append(f"{absent} names of split '{Path(split).name}' without a caption dropped")
        if not names:
            raise DataError(
                f"{path}: no name of split '{split}' occurs in it "
                f"(list: {min(listed, default='empty')!r}, file: {next(iter(captions))!r}); give the list of this file"
            )
    paths = locate(path, data.images, names)
    title = path.name if split is None else f"{path.name} [{Path(split).name}]"
    return gather(title, {n: (p, captions[n]) for n, p in zip(names, paths, strict=True)}, notes)


def parse_row(line: str, first: str) -> tuple[str, str] | None:
    """(image name, caption), or None for a header or a malformed row; first: the first row of the file."""
    if match := TOKEN.match(line):
        return match["name"].strip(), match["caption"]
    if "|" in first:
        name, *rest = (part.strip() for part in line.split("|", 2))
        if len(rest) == 1 and COMMENT.match(rest[0]):  # the one row of Kaggle's file that lacks its second bar
            rest = ["", COMMENT.sub("", rest[0])]
        return (name, rest[1]) if len(rest) == 2 and "." in name else None
    if "\t" in first:
        return None
    name, comma, caption = line.partition(",")
    if not comma or "." not in name:
        return None
    if len(caption) > 1 and caption[0] == caption[-1] == '"':
        caption = caption[1:-1].replace('""', '"')
    return name.strip(), caption


def is_header(line: str) -> bool:
    return bool(re.match(r"^\s*(image|image_name|filename|file)\s*[|,]", line, re.IGNORECASE))


def split_list(path: Path, split: str) -> Path:
    """The list file of a split, given by path, by name beside the captions, or by the name of the split."""
    for candidate in (Path(split).expanduser(), path.parent / split):
        if candidate.is_file():
            return candidate
    for word in SYNONYMS.get(split, (split,)):
        for pattern in (f"*[._]{word}Images.txt", f"{word}Images.txt", f"{word}.txt", f"*[._-]{word}.txt"):
            if found := sorted(path.parent.glob(pattern)):
                return found[0]
    lists = ", ".join(sorted(p.name for p in path.parent.glob("*.txt") if p != path)[:6]) or "none"
    raise UsageError(f"{path}: no list file for split '{split}' beside it; lists there: {lists}; give the list's path")


def _names(path: Path) -> list[str]:
    return list(dict.fromkeys(line.strip() for line in read_text(path).splitlines() if line.strip()))
