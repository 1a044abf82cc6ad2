"""Size and time of change of the files that data was read from, by which a change is seen without reading them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cmapkd.core.errors import DataError


class Stamp(NamedTuple):
    """A file or folder. size: in bytes, -1 where there is none; changed: nanoseconds since 1970."""

    path: str
    size: int
    changed: int


def stamp(path: Path | str) -> Stamp:
    """The present stamp of a file or folder."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return Stamp(str(path), -1, 0)
    return Stamp(str(path), found.st_size, found.st_mtime_ns)


def stamps(paths: Iterable[Path | str]) -> tuple[Stamp, ...]:
    """The present stamps of files and folders."""
    return tuple(map(stamp, paths))


def require_unchanged(known: Iterable[Stamp]) -> None:
    """Raise DataError for a file that has another size or time of change than its stamp."""
    for old in known:
        if stamp(old.path) != old:
            raise DataError(
                f"{old.path}: changed since its index was read; a run needs the same data from its first step to its last: "
                "put the file back and resume, or start a new run"
            )
