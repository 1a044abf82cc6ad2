"""CSV and TSV files of image paths and captions, as open_clip reads them."""

from __future__ import annotations

import csv
from pathlib import Path

from cmapkd.core.errors import DataError
from cmapkd.data.readers.places import find_images
from cmapkd.data.samples import Samples, gather

SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}


def read_table(path: Path, images: Path | None, image_key: str, text_key: str, separator: str | None) -> Samples:
    """Rows with columns `image_key` and `text_key`; several rows of one image are its captions."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    header = text.partition("\n")[0].rstrip("\r")
    if separator is None:
        separator = max(SEPARATORS, key=header.count)
    separator = separator.replace("\\t", "\t")
    reader = csv.DictReader(text.splitlines(), delimiter=separator)
    columns = reader.fieldnames or []
    missing = [key for key in (image_key, text_key) if key not in columns]
    if missing:
        other = [name for sign, name in SEPARATORS.items() if sign != separator and sign in header]
        hint = f" (the header holds {' and '.join(other)} signs: wrong data.separator?)" if len(columns) < 2 and other else ""
        raise DataError(
            f"{path}: no column {missing[0]!r}; columns found with separator {SEPARATORS.get(separator, separator)}: "
            f"{', '.join(columns) or 'none'}{hint}; set data.image_key, data.text_key or data.separator"
        )
    captions: dict[str, list[str]] = {}
    for row in reader:
        if row[image_key]:
            captions.setdefault(row[image_key], []).append(row[text_key] or "")
    names = list(captions)[:20]
    folder = Path() if names and Path(names[0]).is_file() else find_images(path, images, names)
    return gather(path.name, {name: (folder / name, texts) for name, texts in captions.items()})
