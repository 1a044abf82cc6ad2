"""Images that are not files of their own: bytes inside a container, a table cell, a region of another image."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Stored(Protocol):
    """The encoded bytes of one image inside another file.

    name: its name there. length: its number of bytes, or that of the container where counting would mean reading them;
    -1 when the file is gone.
    """

    @property
    def name(self) -> str: ...
    def length(self) -> int: ...
    def read(self) -> bytes: ...


@dataclass(frozen=True)
class Member:
    """`size` bytes from `offset` of the file `path`, such as a member of a tar archive; each read opens the file anew."""

    path: Path
    name: str
    offset: int
    size: int

    def length(self) -> int:
        return self.size if file_length(self.path) >= 0 else -1

    def read(self) -> bytes:
        """The encoded bytes. Raises OSError when the file ends too early."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise OSError(f"cut off: {len(data)} of {self.size} bytes are there")
        return data

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


@dataclass(frozen=True)
class Region:
    """A rectangle (left, top, width, height) of an image, in the pixels of its original size `frame` (width, height)."""

    path: Path
    box: tuple[float, float, float, float]
    frame: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return f"{self.path.name}[{','.join(f'{v:g}' for v in self.box)}]"

    def __str__(self) -> str:
        return f"{self.path.parent / self.name}"

    def corners(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in a file of width × height pixels, clipped to it and at least one pixel wide and high."""
        x, y, w, h = self.box
        across, down = (width / self.frame[0], height / self.frame[1]) if self.frame else (1.0, 1.0)
        left = min(max(round(x * across), 0), width - 1)
        top = min(max(round(y * down), 0), height - 1)
        right = min(max(round((x + w) * across), left + 1), width)
        return left, top, right, min(max(round((y + h) * down), top + 1), height)


Picture = Path | Stored | Region


def stored_length(picture: Picture) -> int:
    """Number of bytes of an image, used in fingerprints; -1 when its file is gone."""
    path = picture.path if isinstance(picture, Region) else picture
    return file_length(path) if isinstance(path, Path) else path.length()


def file_length(path: Path | str) -> int:
    """Number of bytes of a file; -1 when there is none of this name."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1
