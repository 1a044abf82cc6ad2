"""Texts as one array of UTF-8 bytes and the places where each ends; captions as texts with the first one of each image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cmapkd.data.columns.column import Column, chosen
from cmapkd.data.columns.file_array import FileArray
from cmapkd.data.columns.spool import NumberSpool, Spool

Array = np.ndarray | FileArray
CODEC = ("utf-8", "surrogatepass")  # file names may hold lone surrogates


class Blobs:
    """Byte strings. blob: uint8 [total]; ends: int64 [n + 1], 0 and the end of each."""

    def __init__(self, blob: Array, ends: Array) -> None:
        self.blob, self.ends = blob, ends

    def __len__(self) -> int:
        return len(self.ends) - 1

    def at(self, row: int) -> bytes:
        start, end = self.ends[row : row + 2].tolist()
        return self.blob[start:end].tobytes()

    def arrays(self, name: str) -> dict[str, Array]:
        """The arrays by the names of their files."""
        return {f"{name}.bytes": self.blob, f"{name}.ends": self.ends}


class Texts(Blobs):
    """Texts. blob: uint8 [total]; ends: int64 [n + 1], 0 and the end of each."""

    def at(self, row: int) -> str:
        start, end = self.ends[row : row + 2].tolist()
        return self.blob[start:end].tobytes().decode(*CODEC)


class Captions:
    """Tuples of texts, those of each image. offsets: int64 [n + 1], the first text of each image, and their number."""

    def __init__(self, texts: Texts, offsets: Array) -> None:
        self.texts, self.offsets = texts, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def at(self, row: int) -> tuple[str, ...]:
        return tuple(map(self.texts.at, range(*self.offsets[row : row + 2].tolist())))


class BlobWriter:
    """Appends byte strings. folder: for temporary files."""

    def __init__(self, folder: Path | None = None) -> None:
        self._bytes, self._ends = Spool(folder), NumberSpool("q", folder)
        self._ends.add(0)

    def add(self, data: bytes) -> None:
        self._bytes.add(data)
        self._ends.add(self._bytes.length)

    def blobs(self) -> Blobs:
        return Blobs(self._bytes.array("u1"), self._ends.array())

    def texts(self) -> Texts:
        return Texts(self._bytes.array("u1"), self._ends.array())


class CaptionWriter:
    """Appends the captions of one image after another. folder: for temporary files."""

    def __init__(self, folder: Path | None = None) -> None:
        self._texts, self._offsets, self._count = BlobWriter(folder), NumberSpool("q", folder), 0
        self._offsets.add(0)

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            self._texts.add(text.encode(*CODEC))
            self._count += 1
        self._offsets.add(self._count)

    def captions(self) -> Captions:
        return Captions(self._texts.texts(), self._offsets.array())


def text_column(texts: Iterable[str]) -> Column[str]:
    """The texts as a column."""
    writer = BlobWriter()
    for text in texts:
        writer.add(text.encode(*CODEC))
    return Column(writer.texts())


def caption_column(captions: Iterable[Sequence[str]]) -> Column[tuple[str, ...]]:
    """The captions of every image as a column."""
    writer = CaptionWriter()
    for texts in captions:
        writer.add(texts)
    return Column(writer.captions())


def caption_offsets(captions: Column[tuple[str, ...]]) -> np.ndarray:
    """int64 [n + 1]: the index of the first caption of each image, and the total."""
    source: Captions = captions.source
    if captions.whole:
        return np.asarray(source.offsets)
    rows = chosen(captions)
    return np.concatenate([[0], np.cumsum(source.offsets[rows + 1] - source.offsets[rows])]).astype(np.int64)


def caption_spans(captions: Column[tuple[str, ...]], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 [m] twice: index of the first caption and number of captions of these images of a whole column."""
    first = captions.source.offsets[images]
    return first, captions.source.offsets[images + 1] - first


def flat(captions: Column[tuple[str, ...]]) -> Column[str]:
    """All captions in the order of their images, as one column."""
    source: Captions = captions.source
    if captions.whole:
        return Column(source.texts)
    rows, offsets = chosen(captions), caption_offsets(captions)
    starts = np.repeat(source.offsets[rows] - offsets[:-1], np.diff(offsets))
    return Column(source.texts, starts + np.arange(len(starts)))
