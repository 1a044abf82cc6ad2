"""Tar shards: which files a pattern means, and where in a shard its members lie, found in one pass over the headers."""

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
from cmapkd.data.stored import Member

BRACES = re.compile(r"\{([^{}]*)\}")
TEXTS = {".txt", ".json"}


@dataclass
class Shard:
    """What a tar holds by key (a name up to its first dot). lost: samples that it should hold and does not, with why."""

    path: Path
    pictures: dict[str, Member] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    lost: int = 0
    why: str = ""


def is_pattern(location: str) -> bool:
    """Whether it names several files: `{00000..00010}.tar`, `{a,b}.tar` or `*.tar`."""
    return bool(BRACES.search(location)) or any(mark in location for mark in "*?[")


def expand(location: str) -> list[Path]:
    """The files that a pattern or a folder means, in order; braces name files whether they are there or not."""
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
    """As a shell expands `{x..y}`, with leading zeros kept, and `{a,b}`."""
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
    """Offsets of pictures and the texts of captions. A shard that is cut off keeps what stands before the cut."""
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
    """The text of a .txt, or `caption` of img2dataset's .json, which stands in for a .txt that is not there."""
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
    """How many samples img2dataset says that it wrote, in NNNNN_stats.json beside NNNNN.tar."""
    try:
        count = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())["successes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return count if isinstance(count, int) else None
