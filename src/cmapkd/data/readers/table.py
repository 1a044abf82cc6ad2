"""CSV and TSV files with an image column and a text column, named by data.image_key and data.text_key."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.columns.grouping import NamedCaptions
from cmapkd.data.gathering import SCRATCH, Gathering
from cmapkd.data.readers.image_paths import locate_sized
from cmapkd.data.readers.split_files import refuse_split
from cmapkd.data.readers.text import lines
from cmapkd.data.samples import Samples

SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
IMAGE_NAMES = ("filepath", "image", "image_path", "file_name", "filename", "path", "file", "img")
TEXT_NAMES = ("title", "caption", "text", "captions", "description", "sentence", "raw")
csv.field_size_limit(2**24)


def read_table(path: Path, data: DataConfig, split: str | None = None) -> Samples:
    """The samples of a table; rows of the same image are its captions, and a `split` column, if any, selects rows.

    Raises DataError for missing columns.
    """
    first = next(lines(path), "").rstrip("\n")
    separator = data.separator.replace("\\t", "\t") if data.separator else guess_separator(first, data)
    try:
        return _read(path, data, split, separator, csv.QUOTE_MINIMAL)
    except _OpenQuote:
        return _read(path, data, split, separator, csv.QUOTE_NONE)


class _OpenQuote(Exception):
    """A quote in a TSV that closes in another line, or never: it is plain text."""


def _read(path: Path, data: DataConfig, split: str | None, separator: str, quoting: Any) -> Samples:
    rows = _rows(path, separator, quoting)
    names = next(rows, None)
    if names is None:
        raise DataError(f"{path}: the file is empty; give a table with a header row")
    header = [name.strip() for name in names]
    image, words = (_column(path, header, key, separator) for key in (data.image_key, data.text_key))
    chosen = header.index("split") if split not in (None, "all") and "split" in header else None
    if chosen is None:
        refuse_split(path, split)
    captions, short = NamedCaptions(SCRATCH.get()), 0
    for row in rows:
        if len(row) <= max(image, words):
            short += 1
        elif chosen is None or (len(row) > chosen and row[chosen].strip() == split):
            captions.add(row[image].strip(), _captions(row[words]))
    notes = [f"{short} rows with too few columns dropped"] if short else []
    if not captions.rows:
        raise DataError(
            f"{path}: has a header but no usable row" + (f" of split '{split}'" if chosen is not None else "")
        )
    return gather_named(path, data, captions, notes)


def gather_named(path: Path, data: DataConfig, captions: NamedCaptions, notes: Sequence[str] = ()) -> Samples:
    """The samples of image names with their captions; a name is the id of its image."""
    found, (names, texts) = Gathering(), captions.grouped()
    for name, (place, length), own in zip(names, locate_sized(path, data.images, names), texts, strict=True):
        found.add(name, place, own, length)
    return found.samples(path.name, notes)


def _rows(path: Path, separator: str, quoting: Any) -> Iterator[list[str]]:
    """Yield the rows of a table that are not empty. Raises _OpenQuote for a cell of several lines in a TSV."""
    reader = csv.reader(lines(path), delimiter=separator, quoting=quoting)
    tabbed = separator == "\t" and quoting != csv.QUOTE_NONE
    try:
        for row in reader:
            if tabbed and any("\n" in cell for cell in row):
                raise _OpenQuote
            if row:
                yield row
    except csv.Error as error:
        if tabbed:
            raise _OpenQuote from None
        raise DataError(f"{path}: no table after line {reader.line_num} ({error}); is a quote left open?") from None


def _captions(cell: str) -> list[str]:
    """The captions in a cell: one, or a JSON list of them, as in Hugging Face's table of Flickr30k."""
    if cell.lstrip().startswith('["'):
        try:
            listed = json.loads(cell)
        except (json.JSONDecodeError, RecursionError):
            return [cell]
        if isinstance(listed, list) and all(isinstance(caption, str) for caption in listed):
            return listed
    return [cell]


def guess_separator(text: str, data: DataConfig) -> str:
    """The separator that finds both keys in the header, else the one that finds most columns."""
    header = text.split("\n", 1)[0]
    both = [s for s in SEPARATORS if {data.image_key, data.text_key} <= set(columns(header, s))]
    return both[0] if both else max(SEPARATORS, key=header.count)


def columns(header: str, separator: str) -> list[str]:
    return [name.strip().strip('"') for name in header.split(separator)]


def guess_keys(header: list[str]) -> tuple[str | None, str | None]:
    """The most likely image and text columns of a header."""
    lower = {name.lower(): name for name in header}
    image = next((lower[name] for name in IMAGE_NAMES if name in lower), None)
    text = next((lower[name] for name in TEXT_NAMES if name in lower), None)
    return image, text


def _column(path: Path, header: list[str], key: str, separator: str) -> int:
    if key in header:
        return header.index(key)
    image, text = guess_keys(header)
    way_out = "set data.image_key and data.text_key"
    if image and text:
        way_out = f"set data.image_key: {image} and data.text_key: {text}"
    elif len(header) == 1 and not any(other in header[0] for other in SEPARATORS):
        raise DataError(
            f"{path}: no table, and no other format that is known; its first line is {header[0][:60]!r}. Give captions as "
            "COCO or Karpathy JSON, Flickr's token file, or CSV or TSV with a header (data.separator names a rare separator)"
        )
    elif len(header) == 1:
        way_out = (
            f"one column only: the separator {SEPARATORS.get(separator, separator)!r} is wrong, set data.separator"
        )
    shown = ", ".join(name[:40] for name in header[:12])
    raise DataError(
        f"{path}: no column '{key}' (separator {SEPARATORS.get(separator, separator)}); "
        f"columns found: {shown}; {way_out}"
    )
