"""Tar shards: expansion of shard patterns, and the images and captions of one shard, found from its headers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cmapkd.core.errors import DataError
from cmapkd.data.readers.folders.folder import EXTENSIONS
from cmapkd.data.readers.tar.index import LONGEST, CutOff, Entry, entries
from cmapkd.data.stored import Member, Stored

BRACES = re.compile(r"\{([^{}]*)\}")
TEXTS = {".txt", ".json"}


@dataclass
class Shard:
    """The images and captions of a tar by key, a name up to its first dot. lost: number of missing samples; why: the reason."""

    path: Path
    pictures: dict[str, Stored] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    lost: int = 0
    why: str = ""


def is_pattern(location: str) -> bool:
    """Whether a location is a pattern for several files: `{00000..00010}.tar`, `{a,b}.tar` or `*.tar`."""
    return bool(BRACES.search(location)) or any(mark in location for mark in "*?[")


def expand(location: str) -> list[Path]:
    """The files of a pattern or a folder, in order; braces also yield files that do not exist."""
    path = Path(location).expanduser()
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix == ".tar")
    if path.is_file():
        return [path]
    found: list[Path] = []
    for name in braces(str(path)):
        marked = Path(name)
        magic = any(mark in marked.name for mark in "*?[")
        found += sorted(marked.parent.glob(marked.name)) if magic else [marked]
    return found


def braces(text: str) -> Iterator[str]:
    """Brace expansion of `{x..y}`, with leading zeros, and `{a,b}`, as in a shell."""
    match = BRACES.search(text)
    if match is None:
        yield text
        return
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    parts = match[1].split(",")
    if bounds:
        first, last = int(bounds[1]), int(bounds[2])
        step = 1 if last >= first else -1
        parts = [str(n).zfill(len(bounds[1])) for n in range(first, last + step, step)]
    for part in parts:
        yield from braces(text[: match.start()] + part + text[match.end() :])


def read_shard(path: Path) -> Shard:
    """The image offsets and captions of a shard; of a truncated shard, those before the cut."""
    shard = Shard(path)
    try:
        with path.open("rb", buffering=0) as file:
            if file.read(2) == b"\x1f\x8b":
                raise DataError(f"{path}: is compressed, but images are read at their places; unpack it: gunzip {path}")
            for entry in entries(file.fileno(), path.stat().st_size):
                _take(shard, file.fileno(), entry)
    except FileNotFoundError:
        shard.why = "no such file"
    except (CutOff, OSError) as error:
        shard.why = f"cut off or no tar: {error}"
    if shard.why:
        shard.lost = max(1, (_successes(path) or 0) - len(shard.pictures.keys() & shard.texts.keys()))
    return shard


def _take(shard: Shard, file: int, entry: Entry) -> None:
    folder, _, name = entry.name.rpartition("/")
    stem, _, ending = name.partition(".")
    key, suffix = f"{folder}/{stem}" if folder else stem, f".{ending.lower()}"
    if not stem:
        return
    if suffix in EXTENSIONS:
        shard.pictures[key] = Member(shard.path, f"{shard.path.name}/{entry.name}", entry.offset, entry.size)
    elif suffix in TEXTS and (suffix == ".txt" or not shard.texts.get(key)):
        caption = _caption(os.pread(file, min(entry.size, LONGEST), entry.offset), suffix)
        if caption.strip() or key not in shard.texts:
            shard.texts[key] = caption


def _caption(data: bytes, suffix: str) -> str:
    """The caption in a .txt file, or the `caption` in img2dataset's .json, used where there is no .txt."""
    text = data.decode("utf-8", errors="replace")
    if suffix == ".txt":
        return text
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return ""
    found = content.get("caption") if isinstance(content, dict) else None
    return found if isinstance(found, str) else ""


def _successes(path: Path) -> int | None:
    """The number of samples in NNNNN.tar according to img2dataset's NNNNN_stats.json beside it."""
    try:
        count = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())["successes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return count if isinstance(count, int) else None
