"""Opening of text and JSON that a user gave: what is wrong with the file is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cmapkd.core.errors import DataError


def read_text(path: Path) -> str:
    """The file as text. Raises DataError when it is missing, a folder, unreadable or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path{neighbours(path)}") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, but a captions file is needed{neighbours(path / '_')}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8 text; if it is a text file, convert it: iconv -f latin1 -t utf-8"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def read_json(path: Path) -> Any:
    """The parsed file. Raises DataError for broken JSON, with the line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno} ({error.msg}); is it cut off?"
        ) from None
    except RecursionError:
        raise DataError(f"{path}: JSON nested too deeply to be a captions file") from None


def neighbours(path: Path) -> str:
    """`; beside it: …`, the first files of the same folder, or nothing."""
    if not path.parent.is_dir():
        return ""
    names = sorted(p.name for p in path.parent.iterdir() if p.suffix in {".json", ".txt", ".csv", ".tsv"})[:6]
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
