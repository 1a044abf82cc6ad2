"""Readers: every captions format to `Samples`, and `open_samples`, which picks the reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.data.readers.builtin import read_scenes
from cmapkd.data.readers.coco import read_coco
from cmapkd.data.readers.flickr import read_flickr
from cmapkd.data.readers.folder import read_folder
from cmapkd.data.readers.karpathy import read_karpathy
from cmapkd.data.readers.sniff import sniff
from cmapkd.data.readers.table import read_table
from cmapkd.data.samples import Samples

READERS: dict[str, Callable[[Path, DataConfig, str | None], Samples]] = {
    "coco": read_coco,
    "karpathy": read_karpathy,
    "flickr": read_flickr,
    "csv": read_table,
    "folder": read_folder,
}


def open_samples(location: str, data: DataConfig, split: str | None = None) -> Samples:
    """The samples at a path or `scenes:N`; the format is sniffed unless `data.format` names it.

    Raises DataError or UsageError, in one line, for whatever is wrong with the path, its columns or its split.
    """
    if location.startswith("scenes:") or data.format == "scenes":
        return read_scenes(location, data, split)
    path = Path(location).expanduser()
    kind, found = sniff(path) if data.format == "auto" or not path.exists() else (data.format, path)
    return READERS[kind](found, data, split)
