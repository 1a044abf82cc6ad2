"""Captions in metadata.jsonl or metadata.csv of a Hugging Face image folder, or in any JSON lines file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import structs

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.gathering import gather
from cmapkd.data.readers.hf.columns import texts
from cmapkd.data.readers.image_paths import locate
from cmapkd.data.readers.table import guess_keys, read_table
from cmapkd.data.readers.text import read_text
from cmapkd.data.samples import Samples

METADATA = ("metadata.jsonl", "metadata.csv")


def read_metadata(path: Path, data: DataConfig, split: str | None = None) -> Samples:
    """The samples of a metadata file; rows of the same image are its captions. Raises DataError for missing keys or bad JSON."""
    if path.suffix == ".csv":
        header = [name.strip().strip('"') for name in read_text(path).split("\n", 1)[0].rstrip("\r").split(",")]
        return read_table(path, structs.replace(data, **_keys(header, data)), split)
    rows = [_row(path, number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not rows:
        raise DataError(f'{path}: the file is empty; give JSON lines such as {{"file_name": …, "text": …}}')
    header = list(dict.fromkeys(key for row in rows for key in row))
    keys = {"image_key": data.image_key, "text_key": data.text_key} | _keys(header, data)
    for key, name in keys.items():
        if name not in header:
            raise DataError(f"{path}: no row has '{name}'; keys found: {', '.join(header[:12])}; set data.{key}")
    captions: dict[str, list[str]] = {}
    for row in rows:
        if row.get(keys["image_key"]) is not None:
            captions.setdefault(str(row[keys["image_key"]]), []).extend(texts(row.get(keys["text_key"])))
    paths = locate(path, data.images, list(captions))
    return gather(path.name, {n: (p, captions[n]) for n, p in zip(captions, paths, strict=True)})


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
