"""The check that a folder can become a cache: no other files in it, and enough free disk space."""

from __future__ import annotations

import re
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError, UsageError

OURS = re.compile(r"(image|text|pixels-\d+|calibration\.(json|safetensors)|teacher\.json|scores\.json|build)(\..+)?")
BEGUN = "calibration.json"  # the first file of a cache


def check_folder(folder: Path, size: int) -> None:
    """Raise UsageError for a file or a folder with other files, DiskError where `size` bytes do not fit on the disk.

    The space for a cache that has been begun is checked by its stores, which know how much is still to be written.
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
