"""Reading text and JSON files given by the user, with one-line errors."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmapkd.core.errors import DataError

SUFFIXES = {".json", ".jsonl", ".txt", ".csv", ".tsv", ".token", ".tar", ".parquet"}


def read_text(path: Path) -> str:
    """The file as text, unpacked if it ends in .gz. Raises DataError if it is missing, a folder, unreadable or not UTF-8."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path{neighbours(path)}") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, but a file is needed{neighbours(path / '_')}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8 text; if it is a text file, convert it: iconv -f latin1 -t utf-8"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path}: is an incomplete gzip file; download it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends, unpacked if it ends in .gz; errors as of `read_text`."""
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except (OSError, UnicodeDecodeError, EOFError, zlib.error):
        read_text(path)  # names the place
        raise


def read_json(path: Path) -> Any:
    """The parsed JSON file. Raises DataError for broken JSON, with the line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        if error.pos == 0 and error.doc.strip():
            begins = error.doc.lstrip().split("\n", 1)[0][:60]
            raise DataError(f"{path}: is not JSON, it begins with {begins!r}; give the JSON file itself") from None
        raise DataError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno} ({error.msg}); is it cut off?"
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}: JSON that cannot be read ({error})") from None
    except RecursionError:
        raise DataError(f"{path}: JSON nested too deeply to be a captions file") from None


def neighbours(path: Path) -> str:
    """`; beside it: …` with the first data files of the same folder, or an empty string."""
    if not path.parent.is_dir():
        return ""
    names = sorted(p.name for p in path.parent.iterdir() if SUFFIXES & {p.suffix, *p.suffixes[-2:-1]})[:6]
    return f"; beside it: {', '.join(names)}" if names else ""


def listing(data: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """data[key] as a list of objects. Raises DataError naming the keys found."""
    found = data.get(key) if isinstance(data, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        keys = ", ".join(map(str, list(data)[:8])) if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{path}: `{key}` must be a list of objects; the file holds: {keys}")
    return found


def field(item: dict[str, Any], key: str, where: str) -> Any:
    """item[key]. Raises DataError naming the keys found."""
    if key not in item:
        raise DataError(f"{where}: an entry has no `{key}`; it has: {', '.join(map(str, list(item)[:8]))}")
    return item[key]


def whole(item: dict[str, Any], key: str, where: str) -> int:
    """item[key] as a whole number; text of digits is accepted. Raises DataError with the value."""
    value = field(item, key, where)
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, str) and value.isdecimal())):
        raise DataError(f"{where}: {key} is {value!r:.40}, but must be a whole number; correct the entry")
    return int(value)


def number(item: dict[str, Any], key: str, where: str) -> float:
    """item[key] as a finite number. Raises DataError with the value."""
    value = field(item, key, where)
    if not is_number(value):
        raise DataError(f"{where}: {key} is {value!r:.40}, but must be a number; correct the entry")
    return float(value)


def is_number(value: Any) -> bool:
    """Whether the value is a finite number within the range of a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def identity(item: dict[str, Any], key: str, where: str) -> float | str:
    """item[key] as an id: a number or text. Raises DataError with the value."""
    value = field(item, key, where)
    if not isinstance(value, int | float | str):
        raise DataError(f"{where}: {key} is {value!r:.40}, but must be a number or text; correct the entry")
    return value
