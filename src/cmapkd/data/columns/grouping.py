"""Captions by image name in constant memory: rows of the same name are brought together, wherever they stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cmapkd.core.errors import DataError
from cmapkd.data.columns.column import Column
from cmapkd.data.columns.spool import NumberSpool
from cmapkd.data.columns.texts import CODEC, BlobWriter, CaptionWriter


class NamedCaptions:
    """Rows of an image name and its captions, as they are read. folder: for temporary files."""

    def __init__(self, folder: Path | None = None) -> None:
        self._names, self._captions = BlobWriter(folder), CaptionWriter(folder)
        self._hashes = NumberSpool("q", folder)
        self.rows = 0

    def add(self, name: str, captions: Sequence[str]) -> None:
        self._names.add(name.encode(*CODEC))
        self._captions.add(captions)
        self._hashes.add(hash(name))
        self.rows += 1

    def grouped(self) -> tuple[Column[str], Iterator[tuple[str, ...]]]:
        """(names, each once, in the order in which they come first; the captions of each); nothing may be added after this."""
        names, captions = Column(self._names.texts()), Column(self._captions.captions())
        hashes = self._hashes.array()
        order = np.argsort(hashes, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], hashes[order][1:] != hashes[order][:-1]]))
        if len(starts) == len(order):
            return names, iter(captions)
        first = np.argsort(order[starts], kind="stable")  # groups by the row in which their name comes first
        return names.pick(order[starts[first]]), _joined(names, captions, order, np.append(starts, len(order)), first)


def _joined(
    names: Column[str], captions: Column[tuple[str, ...]], order: np.ndarray, starts: np.ndarray, groups: np.ndarray
) -> Iterator[tuple[str, ...]]:
    for group in groups:
        rows = order[starts[group] : starts[group + 1]]
        if len(rows) > 1 and len({names[row] for row in rows}) > 1:
            raise DataError("two image names have the same 64-bit hash; start again, hashes differ from start to start")
        yield tuple(caption for row in rows for caption in captions[row])
