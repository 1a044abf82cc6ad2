"""CSV and TSV files with an image column and a text column, named by data.image_key and data.text_key."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.gathering import gather
from cmapkd.data.readers.image_paths import locate
from cmapkd.data.readers.split_files import refuse_split
from cmapkd.data.readers.text import read_text
from cmapkd.data.samples import Samples

SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
IMAGE_NAMES = ("filepath", "image", "image_path", "file_name", "filename", "path", "file", "img")
TEXT_NAMES = ("title", "caption", "text", "captions", "description", "sentence", "raw")
csv.field_size_limit(2**24)


def read_table(path: Path, data: DataConfig, split: str | None = None) -> Samples:
    """The samples of a table; rows of the same image are its captions, and a `split` column, if any, selects rows.

    Raises DataError for missing columns.
    """
    text = read_text(path)
    separator = data.separator.replace("\\t", "\t") if data.separator else guess_separator(text, data)
    rows = parse(text, separator)
    if not rows:
        raise DataError(f"{path}: the file is empty; give a table with a header row")
    header = [name.strip() for name in rows[0]]
    image, words = (_column(path, header, key, separator) for key in (data.image_key, data.text_key))
    chosen = header.index("split") if split not in (None, "all") and "split" in header else None
    if chosen is None:
        refuse_split(path, split)
    captions: dict[str, list[str]] = {}
    short = 0
    for row in rows[1:]:
        if len(row) <= max(image, words):
            short += 1
        elif chosen is None or (len(row) > chosen and row[chosen].strip() == split):
            captions.setdefault(row[image].strip(), []).extend(_captions(row[words]))
    notes = [f"{short} rows with too few columns dropped"] if short else []
    if not captions:
        raise DataError(
            f"{path}: has a header but no usable row" + (f" of split '{split}'" if chosen is not None else "")
        )
    paths = locate(path, data.images, list(captions))
    return gather(path.name, {n: (p, captions[n]) for n, p in zip(captions, paths, strict=True)}, notes)


def parse(text: str, separator: str) -> list[list[str]]:
    """The rows of a table. In a TSV, an unclosed quote is plain text."""
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if row]
    if separator == "\t" and any("\n" in cell for row in rows for cell in row):
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator, quoting=csv.QUOTE_NONE) if row]
    return rows


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
