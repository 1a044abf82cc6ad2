"""Gathering of samples one by one, as a reader finds them, into columns; bad rows are dropped and counted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path

from cmapkd.core.errors import DataError
from cmapkd.data.columns.column import Column
from cmapkd.data.columns.pictures import PictureWriter
from cmapkd.data.columns.spool import NumberSpool
from cmapkd.data.columns.texts import CODEC, BlobWriter, CaptionWriter
from cmapkd.data.samples import Known, Samples, fingerprinted
from cmapkd.data.stored import Picture, Region, stored_length

SCRATCH: ContextVar[Path | None] = ContextVar("scratch", default=None)  # folder of temporary files of large data

LACKING = 4096  # folders with missing images that are remembered


class Gathering:
    """Samples that are added one by one; drops and counts empty captions, and images without a caption or a file."""

    def __init__(self) -> None:
        folder = SCRATCH.get()
        self._ids, self._pictures, self._captions = BlobWriter(folder), PictureWriter(folder), CaptionWriter(folder)
        self._lengths, self._digest = NumberSpool("q", folder), hashlib.sha256()
        self.kept, self._empty = 0, 0
        self._dropped: dict[str, tuple[int, str]] = {}
        self._lacking: dict[str, None] = {}

    def add(self, key: str, picture: Picture | str, captions: Sequence[str], length: int | None = None) -> bool:
        """Add a sample with a new id; returns whether it was kept.

        picture: the path of a file may be given as text. length: the image's size in bytes, if known.
        """
        texts = [text for caption in captions if (text := clean(caption))]
        self._empty += len(captions) - len(texts)
        if not texts:
            return self._drop("images without a caption", key)
        if length is None:
            length = _length(Path(picture) if isinstance(picture, str) else picture)
        if length < 0:
            if len(self._lacking) < LACKING and isinstance(picture, str | Path | Region):
                self._lacking[str(Path(picture.path if isinstance(picture, Region) else picture).parent)] = None
            return self._drop("names without a file", key)
        self._ids.add(key.encode(*CODEC))
        self._pictures.add(picture)
        self._captions.add(texts)
        self._lengths.add(length)
        self._digest.update(fingerprinted(key, length, texts))
        self.kept += 1
        return True

    def samples(self, name: str, notes: Sequence[str] = ()) -> Samples:
        """All samples, with notes on what was dropped. Raises DataError where nothing is left."""
        notes = [*notes, *([f"{self._empty} empty captions dropped"] if self._empty else [])]
        for what in ("images without a caption", "names without a file"):
            if what in self._dropped:
                count, first = self._dropped[what]
                notes.append(f"{count} {what} dropped (first: {first!r})")
        if not self.kept:
            reason = "; ".join(notes) or "the file lists no image"
            raise DataError(f"{name}: no usable image–caption pair ({reason}); check data.images and the split")
        columns = (Column(self._ids.texts()), Column(self._pictures.pictures()), Column(self._captions.captions()))
        known = Known(self._digest.hexdigest(), lacking=tuple(self._lacking))
        return Samples(name, *columns, notes=tuple(notes), lengths=self._lengths.array(), known=known)

    def _drop(self, what: str, key: str) -> bool:
        count, first = self._dropped.get(what, (0, key))
        self._dropped[what] = count + 1, first
        return False


def gather(name: str, rows: Mapping[str, tuple[Picture, Sequence[str]]], notes: Sequence[str] | None = None) -> Samples:
    """Samples from id → (path, captions); drops and counts empty captions, and images without a caption or a file."""
    found = Gathering()
    for key, (path, captions) in rows.items():
        found.add(key, path, captions)
    return found.samples(name, notes or ())


def clean(caption: str) -> str:
    """The caption as one line of valid Unicode: white space and NULs become one space, lone surrogates a question mark."""
    return " ".join(caption.replace("\x00", " ").split()).encode("utf-8", "replace").decode()


def _length(picture: Picture) -> int:
    """The size of an image in bytes; -1 where its file is gone, and for impossible names (with a NUL, or too long)."""
    try:
        return stored_length(picture)
    except (OSError, ValueError):
        return -1
