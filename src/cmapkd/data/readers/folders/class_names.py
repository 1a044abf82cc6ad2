"""Readable class names, from data.classes or from the files that come with ImageNet and Tiny ImageNet."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.readers.text import read_json, read_text

WNID = re.compile(r"^n\d{8}$")
ROW = re.compile(
    r"^(n\d{8})[ \t]+(?:\d+[ \t]+)?(\S.*)$"
)  # synset_words and LOC_synset_mapping; map_clsloc has a number
MAPS = ("LOC_synset_mapping.txt", "synset_words.txt", "map_clsloc.txt", "imagenet_class_index.json")
ABOVE = 4  # parents searched; Kaggle's mapping lies four above ILSVRC/Data/CLS-LOC/train


def class_names(root: Path, keys: tuple[str, ...], given: Path | None) -> tuple[str, ...]:
    """A name for each class key, from the file `given`, from files beside or above `root`, or from the key itself."""
    if given is not None:
        return _given_names(given, keys)
    known = wnid_words(root) if keys and all(WNID.match(key) for key in keys) else _tabbed_words(root)
    if not known and len(keys) == 1000 and (keys[0], keys[-1]) == ("n01440764", "n15075141"):
        return tuple(importlib.import_module("open_clip").IMAGENET_CLASSNAMES)  # in the order of wnids
    return tuple(readable(known.get(key, key)) for key in keys)


def readable(name: str) -> str:
    return name.split(",")[0].replace("_", " ").strip()


def wnid_words(root: Path) -> dict[str, str]:
    """Class names by WordNet id, from the nearest list beside or above `root`; empty without one."""
    if known := _tabbed_words(root):
        return known
    for place in above(root):
        for name in MAPS:
            if (place / name).is_file():
                return _parse(place / name)[0]
    return {}


def above(root: Path) -> list[Path]:
    """The folder and its parents."""
    return [root, *list(root.resolve().parents)[:ABOVE]]


def repeated(names: Sequence[str]) -> list[str]:
    """A note if two classes have the same name, since prompts cannot distinguish them."""
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if not twice:
        return []
    return [
        f"{len(twice)} names stand for several classes ({', '.join(twice[:3])}): give other names with data.classes"
    ]


def _tabbed_words(root: Path) -> dict[str, str]:
    for place in (root, root.parent):
        if (place / "words.txt").is_file():
            rows = (line.split("\t", 1) for line in read_text(place / "words.txt").splitlines())
            return {row[0]: row[1] for row in rows if len(row) == 2}
    return {}


def _given_names(given: Path, keys: tuple[str, ...]) -> tuple[str, ...]:
    known, names = _parse(given)
    if names and len(names) != len(keys):
        raise UsageError(
            f"{given}: {len(names)} names for {len(keys)} classes; give one name a line in the folders' order"
        )
    if not names and not known.keys() & set(keys):
        raise UsageError(
            f"{given}: names none of the {len(keys)} classes, such as {keys[0]!r} (it names {next(iter(known), None)!r}); "
            "give the file of this data set"
        )
    return tuple(names) if names else tuple(readable(known.get(key, key)) for key in keys)


def _parse(path: Path) -> tuple[dict[str, str], list[str]]:
    """(names by key, []) or ({}, names in order) of a file: JSON, `key<TAB>name` rows, `wnid name` rows, or plain lines."""
    if path.suffix == ".json":
        return _parse_json(path, read_json(path))
    entries = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if any("\t" in entry for entry in entries):
        return dict(entry.split("\t", 1) for entry in entries if "\t" in entry), []
    rows = [ROW.match(entry) for entry in entries]
    if entries and all(rows):
        return {row[1]: row[2] for row in rows if row}, []
    return {}, entries


def _parse_json(path: Path, content: Any) -> tuple[dict[str, str], list[str]]:
    if isinstance(content, list) and _all_text(content):
        return {}, content
    if isinstance(content, dict) and content:
        values = list(content.values())
        if all(isinstance(v, list) and len(v) == 2 and _all_text(v) for v in values):  # {"0": [wnid, name]}
            return dict(values), []
        if _all_text(values):
            numbered = sorted(content) == sorted(str(n) for n in range(len(content)))
            return ({}, [content[str(n)] for n in range(len(content))]) if numbered else (content, [])
    raise DataError(f"{path}: must be a list of names or an object of names by class; see docs/data.md")


def _all_text(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
