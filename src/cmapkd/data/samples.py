"""Samples: images with captions, independent of the format they were read from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cmapkd.core.errors import DataError
from cmapkd.data.stored import Picture, is_there, stored_length


@dataclass(frozen=True)
class Samples:
    """Images with captions: one entry per image in every tuple.

    paths: image files, or images inside another file (data/stored.py). labels, classes: set for labelled data. notes: what
    the reader dropped, and why. The k-th caption of image i has the caption index caption_offsets[i] + k.
    """

    name: str
    ids: tuple[str, ...]
    paths: tuple[Picture, ...]
    captions: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def caption_offsets(self) -> np.ndarray:
        """int64 [n + 1]: the index of the first caption of each image, and the total."""
        return np.concatenate([[0], np.cumsum([len(c) for c in self.captions])]).astype(np.int64)

    @property
    def n_captions(self) -> int:
        return int(self.caption_offsets[-1])

    def flat_captions(self) -> list[str]:
        return [caption for captions in self.captions for caption in captions]

    def fingerprint(self) -> str:
        """SHA-256 over ids, captions and file sizes; part of the key of a cache of this data."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, path, captions in zip(self.ids, self.paths, self.captions, strict=True):
            digest.update(
                "\x1f".join((name, str(stored_length(path)), *captions, "\x1e")).encode("utf-8", "surrogatepass")
            )
        return digest.hexdigest()

    def subset(self, indices: np.ndarray) -> Samples:
        pick = [int(i) for i in indices]
        labels = None if self.labels is None else tuple(self.labels[i] for i in pick)
        return replace(
            self, ids=tuple(self.ids[i] for i in pick), paths=tuple(self.paths[i] for i in pick),
            captions=tuple(self.captions[i] for i in pick), labels=labels,
        )  # fmt: skip


def is_file(path: Path) -> bool:
    """Whether the path is a file; False for impossible names (with a NUL, or too long)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def clean(caption: str) -> str:
    """The caption as one line of valid Unicode: white space and NULs become one space, lone surrogates a question mark."""
    return " ".join(caption.replace("\x00", " ").split()).encode("utf-8", "replace").decode()


def gather(name: str, rows: Mapping[str, tuple[Picture, Sequence[str]]], notes: list[str] | None = None) -> Samples:
    """Samples from id → (path, captions); drops and counts empty captions, and images without a caption or a file."""
    notes = list(notes or [])
    kept: dict[str, tuple[Picture, tuple[str, ...]]] = {}
    empty, bare, missing = 0, [], []
    for key, (path, captions) in rows.items():
        texts = tuple(clean(c) for c in captions)
        empty += sum(not text for text in texts)
        texts = tuple(text for text in texts if text)
        if not texts:
            bare.append(key)
        elif not is_there(path):
            missing.append(key)
        else:
            kept[key] = (path, texts)
    if empty:
        notes.append(f"{empty} empty captions dropped")
    for what, names in (("images without a caption", bare), ("names without a file", missing)):
        if names:
            notes.append(f"{len(names)} {what} dropped (first: {names[0]!r})")
    if not kept:
        reason = "; ".join(notes) or "the file lists no image"
        raise DataError(f"{name}: no usable image–caption pair ({reason}); check data.images and the split")
    return Samples(
        name, tuple(kept), tuple(p for p, _ in kept.values()), tuple(c for _, c in kept.values()), notes=tuple(notes)
    )
