"""`cmapkd cache verify`: every file of a finished cache against its recorded SHA-256."""

from __future__ import annotations

import json
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.store.manifest import AGAIN
from cmapkd.store.store import Store


def verify_cache(folder: Path) -> str:
    """A sentence on what was checked: the image, text and pixel stores and the calibration, files and bytes.

    Raises UsageError for a cache that is missing or unfinished, IntegrityError for a file that differs.
    """
    if not (folder / "teacher.json").is_file():  # written last
        state = "is unfinished" if folder.is_dir() else "does not exist"
        raise UsageError(
            f"cache {folder}: {state}, so there is nothing to verify; {AGAIN.removesuffix(' again')} first"
        )
    texts = [folder / "text"] if (folder / "text").is_dir() or "text" in _sides(folder) else []
    stores = [folder / "image", *texts, *sorted(folder.glob("pixels-*"))]
    checked = [_calibration_files(folder), *(Store(path).verify_all() for path in stores)]
    files, size = (sum(column) for column in zip(*checked, strict=True))
    parts = ", ".join(path.name for path in stores)
    return f"cache {folder}: {parts} and calibration verified, {files} files, {size / 1e6:.1f} MB"


def _sides(folder: Path) -> list[str]:
    """The sides of the teacher; both in the record of an earlier version."""
    try:
        return json.loads((folder / "teacher.json").read_bytes())["shape"].get("sides", ["image", "text"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(f"{folder / 'teacher.json'}: corrupt; delete it and {AGAIN}") from None


def _calibration_files(folder: Path) -> tuple[int, int]:
    """(files, bytes) of the calibration, whose record holds the SHA-256 of its tensors."""
    record, tensors = folder / "calibration.json", folder / "calibration.safetensors"
    way_out = f"delete {folder} and {AGAIN}"
    try:
        stated = json.loads(record.read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise IntegrityError(f"cache {folder}: {record.name} is missing or corrupt; {way_out}") from None
    if not tensors.is_file() or fsio.sha256_file(tensors) != stated:
        raise IntegrityError(f"cache {folder}: {tensors.name} is missing or its SHA-256 differs; {way_out}")
    return 2, record.stat().st_size + tensors.stat().st_size
