"""The offsets of the members of a tar, from its headers; several times faster than `tarfile`, which parses them in full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
REGULAR, LONG_NAME, EXTENDED = (b"0", b"\0"), b"L", b"x"
LONGEST = 2**20  # bytes of a name or an extended header; anything longer is not a tar


class Entry(NamedTuple):
    """A regular file in a tar: `size` bytes from `offset`."""

    name: str
    offset: int
    size: int


class CutOff(Exception):
    """The archive ends or becomes invalid before its end marker."""


def entries(file: int, length: int) -> Iterator[Entry]:
    """Yield the regular files of a tar of `length` bytes, open as descriptor `file`; reads ustar, GNU long names and pax.

    Raises CutOff for an incomplete archive, after yielding the complete files.
    """
    at, name, size = 0, None, None
    while True:
        header = os.pread(file, BLOCK, at)
        if len(header) < BLOCK:
            raise CutOff(f"ends at byte {at + len(header)} without an end mark")
        if not any(header):
            return
        if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise CutOff(f"no tar header at byte {at}")
        kind, own = header[156:157], _number(header[124:136])
        at += BLOCK
        if kind in (LONG_NAME, EXTENDED):
            if own > LONGEST:
                raise CutOff(f"a name of {own} bytes at byte {at}")
            data = os.pread(file, own, at)
            if kind == LONG_NAME:
                name = data.rstrip(b"\0").decode("utf-8", "replace")
            else:
                records = _records(data)
                name = records.get("path", name)
                size = int(records["size"]) if records.get("size", "").isdecimal() else size
        else:
            own = size if size is not None else own
            if at + own > length:
                raise CutOff(f"{name or _name(header)} ends behind the file's end")
            if kind in REGULAR:
                yield Entry(name or _name(header), at, own)
            name, size = None, None
        at += -(-own // BLOCK) * BLOCK


def _name(header: bytes) -> str:
    prefix = header[345:500] if header[257:263] == b"ustar\0" else b""
    parts = (part.split(b"\0", 1)[0].decode("utf-8", "replace") for part in (prefix, header[:100]))
    return "/".join(part for part in parts if part)


def _number(digits: bytes) -> int:
    """A number of a header: octal text, or base 256 for large ones (GNU)."""
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:], "big")
    try:
        return int(digits.rstrip(b" \0") or b"0", 8)
    except ValueError:
        raise CutOff(f"no number where {digits!r} stands") from None


def _records(data: bytes) -> dict[str, str]:
    """The `length key=value` records of a pax header."""
    found = {}
    while data and (match := data.split(b" ", 1)[0]).isdigit() and int(match) > len(match) + 1:
        key, _, value = data[len(match) + 1 : int(match) - 1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        data = data[int(match) :]
    return found
