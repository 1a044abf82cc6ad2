"""Samples: images with captions, independent of the format they were read from; kept in columns, not in Python objects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cmapkd.data.columns.column import Column, Numbers
from cmapkd.data.columns.file_array import FileArray
from cmapkd.data.columns.pictures import picture_column
from cmapkd.data.columns.texts import caption_column, caption_offsets, caption_spans, flat, text_column
from cmapkd.data.index.stamps import Stamp
from cmapkd.data.stored import Picture, stored_length


@dataclass(frozen=True)
class Known:
    """Facts of a data set that were found when it was read. fingerprint: see Samples.

    shared, distinct: captions that stand at several images, and different captions; None where they were not counted. lacking: folders
    in which named images were missing.
    """

    fingerprint: str
    shared: int | None = None
    distinct: int | None = None
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Samples:
    """Images with captions: one entry per image in every column. Any sequences may be given; they are made columns.

    paths: image files, or images inside another file (data/stored.py). labels, classes: set for labelled data. notes: what
    the reader dropped, and why. The k-th caption of image i has the caption index caption_offsets[i] + k.
    lengths: int64 [n], the size of each image in bytes when it was read; None: looked up when needed.
    sources: the files that an index was built from.
    """

    name: str
    ids: Sequence[str]
    paths: Sequence[Picture]
    captions: Sequence[tuple[str, ...]]
    labels: Sequence[int] | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    lengths: np.ndarray | FileArray | None = field(default=None, compare=False, repr=False)
    known: Known | None = field(default=None, compare=False, repr=False)
    sources: tuple[Stamp, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        columns = {"ids": text_column, "paths": picture_column, "captions": caption_column, "labels": _numbers}
        for name, column in columns.items():
            given = getattr(self, name)
            if given is not None and not isinstance(given, Column):
                object.__setattr__(self, name, column(given))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def caption_offsets(self) -> np.ndarray:
        """int64 [n + 1]: the index of the first caption of each image, and the total."""
        return caption_offsets(self.captions)  # pyright: ignore[reportArgumentType]: a column, see __post_init__

    @property
    def n_captions(self) -> int:
        return len(self.flat_captions())

    def caption_spans(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [m] twice: caption_offsets of these images, and their numbers of captions. images: int [m]."""
        if self.captions.whole:  # pyright: ignore[reportAttributeAccessIssue]: a column, see __post_init__
            return caption_spans(self.captions, images)  # pyright: ignore[reportArgumentType]
        first = self.caption_offsets[images]
        return first, self.caption_offsets[images + 1] - first

    def flat_captions(self) -> Column[str]:
        """All captions by their caption index; each is read when it is asked for."""
        return self._flat_captions

    @cached_property
    def _flat_captions(self) -> Column[str]:
        return flat(self.captions)  # pyright: ignore[reportArgumentType]: a column, see __post_init__

    def fingerprint(self) -> str:
        """SHA-256 over ids, captions and file sizes; part of the key of a cache of this data."""
        return self.known.fingerprint if self.known is not None else self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        lengths = map(stored_length, self.paths) if self.lengths is None else self.lengths
        for name, length, captions in zip(self.ids, lengths, self.captions, strict=True):
            digest.update(fingerprinted(name, int(length), captions))
        return digest.hexdigest()

    def subset(self, indices: np.ndarray) -> Samples:
        """The samples at these positions. indices: int [m]."""
        indices = np.asarray(indices, np.int64)
        picked = {
            name: column.pick(indices)
            for name in ("ids", "paths", "captions", "labels")
            if isinstance(column := getattr(self, name), Column)
        }
        return replace(self, **picked, lengths=None if self.lengths is None else self.lengths[indices], known=None)

    def with_captions(self, captions: Iterable[Sequence[str]]) -> Samples:
        """The same images with other captions."""
        return replace(self, captions=caption_column(captions), known=None)


def _numbers(values: Sequence[int]) -> Column[int]:
    return Column(Numbers(np.asarray(values, np.int64)))


def fingerprinted(name: str, length: int, captions: Sequence[str]) -> bytes:
    """The bytes of one sample in the fingerprint of its data."""
    return "\x1f".join((name, str(length), *captions, "\x1e")).encode("utf-8", "surrogatepass")


def is_file(path: Path) -> bool:
    """Whether the path is a file; False for impossible names (with a NUL, or too long)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
