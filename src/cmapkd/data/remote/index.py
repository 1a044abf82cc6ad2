"""The index of a remote shard, made from its first copy and kept beside it: what it holds, without its images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.data.readers.tar.shards import Shard, read_shard
from cmapkd.data.remote.copies import Copies
from cmapkd.data.remote.download import remote_size

LAYOUT = 1


@dataclass(frozen=True)
class RemoteMember:
    """`bytes_` bytes from `offset` of a shard of `shard_bytes`; reading it fetches the shard where its copy is gone."""

    copies: Copies
    url: str
    shard_bytes: int
    name: str
    offset: int
    bytes_: int

    @property
    def path(self) -> Path:
        """Where the copy of the shard is, or will be."""
        return self.copies.place(self.url)

    def length(self) -> int:
        return self.bytes_

    def read(self) -> bytes:
        """The encoded bytes. Raises DataError when the shard cannot be fetched, OSError when it is cut off."""
        while True:
            path = self.copies.fetch(self.url, self.shard_bytes)
            try:
                with path.open("rb") as file:
                    file.seek(self.offset)
                    data = file.read(self.bytes_)
            except FileNotFoundError:  # another process made room just now
                continue
            if len(data) < self.bytes_:
                raise OSError(f"cut off: {len(data)} of {self.bytes_} bytes are there")
            return data

    def __str__(self) -> str:
        return f"{self.url}:{self.name}"


def shard_size(copies: Copies, url: str) -> int:
    """The bytes of a shard: those of its index, or what the server says. Raises DataError."""
    kept = _kept(copies, url)
    return kept["bytes"] if kept is not None else remote_size(url)


def read_remote_shard(copies: Copies, url: str, size: int) -> Shard:
    """The images and captions of a remote shard, from its index; the index is made first where there is none."""
    if (kept := _kept(copies, url)) is None:
        found = read_shard(copies.fetch(url, size))
        kept = {
            "layout": LAYOUT, "url": url, "bytes": size, "lost": found.lost, "why": found.why, "texts": found.texts,
            "pictures": {key: [entry.name.partition("/")[2], entry.offset, entry.size] for key, entry in found.pictures.items()},
        }  # fmt: skip
        fsio.write_bytes(_index(copies, url), json.dumps(kept).encode())
    name = url.rpartition("/")[2]
    shard = Shard(Path(name), texts=kept["texts"], lost=kept["lost"], why=kept["why"])
    for key, (member, offset, length) in kept["pictures"].items():
        shard.pictures[key] = RemoteMember(copies, url, size, f"{name}/{member}", offset, length)
    return shard


def _kept(copies: Copies, url: str) -> dict | None:
    try:
        kept = json.loads(_index(copies, url).read_bytes())
    except (OSError, ValueError):
        return None
    return kept if kept.get("layout") == LAYOUT and kept.get("url") == url else None


def _index(copies: Copies, url: str) -> Path:
    path = copies.place(url)
    return path.with_name(f"{path.name}.json")
