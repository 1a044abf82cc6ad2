"""Opening of data through its index: read if there is one, built once by one process where the data is large."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core import fsio
from cmapkd.core.errors import DiskError
from cmapkd.core.lease import exclusive
from cmapkd.core.log import say
from cmapkd.data.duplicates import count_captions
from cmapkd.data.gathering import SCRATCH
from cmapkd.data.index import files
from cmapkd.data.index.stamps import stamps
from cmapkd.data.samples import Samples

BESIDE = ".cmapkd-index"
KEYS = ("images", "format", "image_key", "text_key", "separator", "classes", "regions", "bad_budget")
PACKED = {"webdataset", "hf"}  # formats whose files hold the images too
LARGE, LARGE_PACKED = 4 * 2**20, 256 * 2**20  # bytes of files that take more than about a second to read
NEVER = {"folder", "scenes"}


@dataclass(frozen=True)
class Reading:
    """Steps of reading the data at a location. detect: its format and file; listing: the files that a format reads there; read:
    its samples."""

    location: Path
    data: DataConfig
    split: str | None
    detect: Callable[[], tuple[str, Path]]
    listing: Callable[[str, Path], list[Path]]
    read: Callable[[str, Path], Samples]

    def key(self) -> dict[str, str]:
        """Everything that the columns depend on besides the files."""
        given = {name: getattr(self.data, name) for name in KEYS}
        given = {name: value.absolute() if isinstance(value, Path) else value for name, value in given.items()}
        return {"location": str(self.location.absolute()), "split": str(self.split)} | {
            k: str(v) for k, v in given.items()
        }

    def name(self) -> str:
        """The name of the index: readable, and different for another key."""
        digest = hashlib.sha256(json.dumps(self.key(), sort_keys=True).encode()).hexdigest()[:16]
        return f"{re.sub(r'[^A-Za-z0-9.]+', '_', self.location.name)[:40]}-{digest}"


def open_indexed(reading: Reading) -> Samples:
    """The samples at a location. Large data is read once, into an index beside it or in the user's cache folder."""
    key, name = reading.key(), reading.name()
    places = (_folder(reading.location) / BESIDE, _cache())
    for place in places:
        if isinstance(found := files.read(place / name, key, reading.listing), Samples):
            return found
    kind, path = reading.detect()
    size = sum(max(0, file.size) for file in stamps(reading.listing(kind, path)))
    if kind in NEVER or size < (LARGE_PACKED if kind in PACKED else LARGE):
        return reading.read(kind, path)
    for place in places:
        try:
            with exclusive(place / f"{name}.lock", wait=True):
                return _built(reading, place / name, key, kind, path)
        except DiskError as error:
            say(f"no index in {place}: {error}")
    return reading.read(kind, path)


def _built(reading: Reading, folder: Path, key: dict[str, str], kind: str, path: Path) -> Samples:
    """The samples of the index, which another process may have built meanwhile; of the data where it cannot be written."""
    fsio.sweep_temporaries(folder.parent)
    found = files.read(folder, key, reading.listing)
    if isinstance(found, Samples):
        return found
    say(f"{reading.location}: {found or 'large data: its index is built once'}, in {folder}")
    sources = stamps(reading.listing(kind, path))
    scratch = SCRATCH.set(folder.parent)
    try:
        samples = reading.read(kind, path)
        known = samples.known
        if known is None or not files.storable(samples):
            return samples
        shared, distinct = count_captions(samples)
        samples = replace(samples, known=replace(known, shared=shared, distinct=distinct))
        files.write(folder, samples, files.About(key, kind, str(path), sources, stamps(known.lacking)))
    except DiskError as error:
        say(f"{reading.location}: its index could not be written, so that each start reads all of it: {error}")
        return reading.read(kind, path)
    finally:
        SCRATCH.reset(scratch)
    again = files.read(folder, key, reading.listing)
    return again if isinstance(again, Samples) else samples


def _folder(location: Path) -> Path:
    """The folder of a file or of a pattern of shards; a folder itself."""
    while not location.is_dir() and location != location.parent:
        location = location.parent
        if location.is_dir():
            return location
    return location


def _cache() -> Path:
    """The user's folder for what can be made again: $XDG_CACHE_HOME/cmapkd, or ~/.cache/cmapkd."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "cmapkd" / "index"
