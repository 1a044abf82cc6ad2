"""The image, text and label columns of a Hugging Face table, and the captions in its cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.parquet import arrow
from cmapkd.data.readers.table import guess_keys

LABELS = ("label", "labels", "fine_label", "class")


@dataclass(frozen=True)
class Columns:
    """The columns of a table. embedded: whether the image column holds encoded bytes, else file names."""

    image: str
    text: str | None
    label: str | None
    classes: tuple[str, ...]
    embedded: bool


def pick(path: Path, schema: Any, data: DataConfig) -> Columns:
    """The columns named by data.image_key and data.text_key, or the most likely ones. Raises DataError."""
    pa, names = arrow(""), list(schema.names)
    image_guess, text_guess = guess_keys(names)
    bytewise = [n for n in names if _holds_bytes(pa, schema.field(n).type)]
    image = _column(path, names, data, "image_key") or next(iter(bytewise), None) or image_guess
    text = _column(path, names, data, "text_key") or text_guess
    label = next((n for n in LABELS if n in names and pa.types.is_integer(schema.field(n).type)), None)
    if image is None or (text is None and label is None):
        missing = "image" if image is None else "text or label"
        raise DataError(
            f"{path}: no {missing} column is known by its name; columns found: {', '.join(names[:12])}; "
            "set data.image_key and data.text_key"
        )
    classes = _class_names(schema, label) if label else ()
    return Columns(image, text, None if text else label, classes, _holds_bytes(pa, schema.field(image).type))


def texts(value: Any) -> list[str]:
    """The captions in a cell: a string, a list of them, or objects with `raw`, `caption` or `text`."""
    if value is None:
        return []
    if isinstance(value, dict):
        return next((texts(value[key]) for key in ("raw", "caption", "text") if key in value), [])
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [caption for item in value for caption in texts(item)]
    return [str(value)]


def _column(path: Path, names: list[str], data: DataConfig, key: str) -> str | None:
    """The column named in the config, or None for a default name that the table does not have."""
    name = getattr(data, key)
    if name in names:
        return name
    if name != getattr(DataConfig(train=str(path)), key):
        raise DataError(f"{path}: no column '{name}'; columns found: {', '.join(names[:12])}; set data.{key}")
    return None


def _holds_bytes(pa: Any, kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(k).name == "bytes" for k in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """The names of a ClassLabel feature, stored by `datasets` in the metadata of the schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()
