"""The files that a format is read from, found without reading them."""

from __future__ import annotations

from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.data.readers.flickr import split_list
from cmapkd.data.readers.hf import reader as hf
from cmapkd.data.readers.tar.shards import expand
from cmapkd.data.readers.tar.webdataset import split_folder
from cmapkd.data.stored import file_length


def files_read(kind: str, path: Path, data: DataConfig, split: str | None) -> list[Path]:
    """The files of the data at `path`, also those that are named and missing. Raises UsageError for an unknown split."""
    found = [path]
    if kind == "webdataset":
        found = expand(str(split_folder(path, split)))
    elif kind == "hf":
        found = [file for held in hf.split_files(path).values() for file in held]
    elif kind == "flickr" and split not in (None, "all") and file_length(path) >= 0:
        found = [path, split_list(path, split)]
    elif kind == "visual_genome":
        found = [path, path.with_name("image_data.json")]
    return found if data.classes is None else [*found, data.classes]
