"""Duplicates in a data set: images with the same bytes, and captions shared by several images."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmapkd.data.samples import Samples
from cmapkd.data.stored import Member, Picture, stored_length

MOST = 5000  # images compared at most, so that inspecting millions takes seconds


def same_bytes(pictures: Sequence[Picture], most: int = MOST) -> tuple[int, int, tuple[str, str] | None]:
    """(images that repeat an earlier one, images compared, first such pair); only files of equal size are read."""
    sizes: dict[int, list[Path | Member]] = defaultdict(list)
    looked = [p for p in pictures[:most] if isinstance(p, Path | Member)]
    for picture in looked:
        sizes[stored_length(picture)].append(picture)
    repeats, first = 0, None
    for alike in (group for group in sizes.values() if len(group) > 1):
        seen: dict[bytes, str] = {}
        for picture in alike:
            try:
                data = picture.read_bytes() if isinstance(picture, Path) else picture.read()
            except OSError:
                continue
            digest = hashlib.sha256(data).digest()
            if digest in seen:
                repeats, first = repeats + 1, first or (seen[digest], picture.name)
            seen.setdefault(digest, picture.name)
    return repeats, len(looked), first


def shared_captions(samples: Samples) -> int:
    """Number of captions that occur, word for word, at another image too."""
    known = samples.known
    return known.shared if known is not None and known.shared is not None else count_captions(samples)[0]


def distinct_captions(samples: Samples) -> int:
    """Number of different captions."""
    known = samples.known
    return known.distinct if known is not None and known.distinct is not None else count_captions(samples)[1]


def count_captions(samples: Samples) -> tuple[int, int]:
    """(captions that occur at another image too, different captions), by 64-bit hashes: 32 bytes a caption."""
    captions = samples.flat_captions()
    hashes = np.fromiter(map(hash, captions), np.int64, len(captions))
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    images = np.searchsorted(samples.caption_offsets, order, side="right") - 1
    first = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))  # of each different caption
    other = np.concatenate([[0], images[1:] != images[:-1]])
    other[first] = 0
    several = np.add.reduceat(other, first) > 0
    counts = np.diff(np.append(first, len(hashes)))
    return int(counts[several].sum()), len(first)
