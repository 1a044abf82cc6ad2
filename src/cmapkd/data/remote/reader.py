"""Reader of remote tar shards, given as a URL or a pattern such as https://host/cc3m/{00000..00331}.tar."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core import fsio
from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.log import Progress
from cmapkd.core.prefetch import prefetch
from cmapkd.data.readers.split_files import DROP
from cmapkd.data.readers.tar.shards import braces
from cmapkd.data.readers.tar.webdataset import samples_of_shards
from cmapkd.data.remote.copies import Copies
from cmapkd.data.remote.index import read_remote_shard, shard_size
from cmapkd.data.samples import Samples

AT_ONCE = 4  # shards


def read_remote(location: str, data: DataConfig, split: str | None = None) -> Samples:
    """One sample per image of the shards, named `shard/key`; each shard is copied once to make its index, and kept while there is room.

    Raises UsageError where the shards do not fit data.copies_gb in the order that data.order asks for, DataError where one
    cannot be fetched.
    """
    if split not in (None, "all"):
        raise UsageError(
            f"{location}: remote shards hold one split, but split '{split}' is asked for; give its shards, {DROP}"
        )
    urls = list(braces(location))
    copies = open_copies(data)
    sizes = list(prefetch(lambda url: shard_size(copies, url), urls, AT_ONCE))
    _refuse_thrashing(location, sizes, copies, data)
    progress, shards = Progress(len(urls), "shards", quiet=2.0), []
    at_once = max(1, min(AT_ONCE, copies.limit // max(sizes)))  # no copy goes before it was read
    for shard in prefetch(lambda k: read_remote_shard(copies, urls[k], sizes[k]), range(len(urls)), at_once):
        shards.append(shard)
        progress.update(len(shards))
    progress.close()
    title = location.rpartition("/")[2] + (f" [{len(urls)} shards]" if len(urls) > 1 else "")
    samples = samples_of_shards(title, location, shards, data)
    _refuse_wide_window(location, len(samples), sizes, copies, data)
    return samples


def open_copies(data: DataConfig) -> Copies:
    """The folder of copies that the config names, free of what killed processes left."""
    folder = data.copies or Path(os.environ.get("CMAPKD_DATA") or "data") / "copies"
    fsio.make_folder(folder)
    fsio.sweep_temporaries(folder)
    return Copies(folder, round(data.copies_gb * 1e9), {} if data.checksums is None else read_checksums(data.checksums))


def read_checksums(path: Path) -> dict[str, str]:
    """File name → SHA-256 of a file as written by `sha256sum *.tar`. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as checksums ({error}); make it with sha256sum *.tar") from None
    found = {}
    for number, line in enumerate(filter(str.strip, lines), 1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.strip())
        if match is None:
            raise DataError(f"{path}: line {number} is no checksum, `SHA-256  name`; make it with sha256sum *.tar")
        found[match[2].rpartition("/")[2]] = match[1].lower()
    return found


def _refuse_thrashing(location: str, sizes: list[int], copies: Copies, data: DataConfig) -> None:
    """Raise UsageError where a random order would fetch shards again and again."""
    if (total := sum(sizes)) > copies.limit and data.order == "random":
        raise UsageError(
            f"{location}: {total / 1e9:.2f} GB of shards, but data.copies_gb is {copies.limit / 1e9:g}, and a random order needs all of "
            "them in every batch; raise data.copies_gb, or set data.order: sequential"
        )


def _refuse_wide_window(location: str, samples: int, sizes: list[int], copies: Copies, data: DataConfig) -> None:
    """Raise UsageError where the shards of a window do not fit beside those of the next one, which are fetched meanwhile."""
    needed = 2 * (sum(sizes) * min(1.0, data.window / samples) + max(sizes))
    if sum(sizes) > copies.limit and needed > copies.limit:
        raise UsageError(
            f"{location}: the shards of two windows of {data.window} samples are {needed / 1e9:.2f} GB, more than "
            f"data.copies_gb {copies.limit / 1e9:g}; raise it, or lower data.window"
        )
