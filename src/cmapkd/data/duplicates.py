"""Duplicates in a data set: images with the same bytes, and captions shared by several images."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

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
    images = Counter(caption for captions in samples.captions for caption in set(captions))
    return sum(images[caption] > 1 for captions in samples.captions for caption in captions)
