"""Whether a folder can become a cache: nobody else's files in it, and room for what will be written."""

from __future__ import annotations

import re
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError, UsageError

OURS = re.compile(r"(image|text|pixels-\d+|calibration\.(json|safetensors)|teacher\.json|scores\.json)(\..+)?")
BEGUN = "calibration.json"  # the first file of a cache


def refuse_place(folder: Path, size: int) -> None:
    """Raise UsageError for a file or a folder with other files, DiskError where `size` bytes have no room.

    A cache that is begun already is left to its stores: they know how much of it is still to be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"cache {folder}: is a file; give a folder in cache.path")
    if (folder / BEGUN).is_file():
        return
    others = sorted(path.name for path in folder.iterdir() if not OURS.fullmatch(path.name)) if folder.is_dir() else []
    if others:
        raise UsageError(f"cache {folder}: holds other files ({others[0]}); give cache.path a folder of its own")
    if size > (free := fsio.free_bytes(folder)):
        raise DiskError(
            f"cache {folder}: needs {size / 1e6:.1f} MB and {free / 1e6:.1f} MB are free, nothing written; use a "
            "smaller cache.grid, cache.rank or data.views, or another cache.path"
        )
