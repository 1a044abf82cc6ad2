"""Captions in metadata.jsonl or metadata.csv of a Hugging Face image folder, or in any JSON lines file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import structs

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.columns.grouping import NamedCaptions
from cmapkd.data.gathering import SCRATCH
from cmapkd.data.readers.hf.columns import texts
from cmapkd.data.readers.table import gather_named, guess_keys, read_table
from cmapkd.data.readers.text import lines
from cmapkd.data.samples import Samples

METADATA = ("metadata.jsonl", "metadata.csv")


def read_metadata(path: Path, data: DataConfig, split: str | None = None) -> Samples:
    """The samples of a metadata file; rows of the same image are its captions. Raises DataError for missing keys or bad JSON."""
    if path.suffix == ".csv":
        header = [name.strip().strip('"') for name in next(lines(path), "").rstrip("\r\n").split(",")]
        return read_table(path, structs.replace(data, **_keys(header, data)), split)
    header = list(dict.fromkeys(key for row in _rows(path) for key in row))
    if not header:
        raise DataError(f'{path}: the file is empty; give JSON lines such as {{"file_name": …, "text": …}}')
    keys = {"image_key": data.image_key, "text_key": data.text_key} | _keys(header, data)
    for key, name in keys.items():
        if name not in header:
            raise DataError(f"{path}: no row has '{name}'; keys found: {', '.join(header[:12])}; set data.{key}")
    captions = NamedCaptions(SCRATCH.get())
    for row in _rows(path):
        if row.get(keys["image_key"]) is not None:
            captions.add(str(row[keys["image_key"]]), texts(row.get(keys["text_key"])))
    return gather_named(path, data, captions)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file."""
    for number, line in enumerate(lines(path), 1):
        if line.strip():
            yield _row(path, number, line)


def _keys(header: list[str], data: DataConfig) -> dict[str, str]:
    """Guesses for image_key and text_key where the config leaves them at defaults that the file does not have."""
    guesses = dict(zip(("image_key", "text_key"), guess_keys(header), strict=True))
    plain = DataConfig(train=data.train)
    return {
        key: guess
        for key, guess in guesses.items()
        if guess and getattr(data, key) not in header and getattr(data, key) == getattr(plain, key)
    }


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number} is not a JSON object; is the file cut off? ({line[:40]!r})")
    return row
