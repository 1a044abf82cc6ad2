"""The index of a remote shard, made from its first copy and kept beside it: what it holds, without its images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from cmapkd.core import fsio
from cmapkd.data.readers.tar.shards import Shard, read_shard
from cmapkd.data.remote.copies import Copies
from cmapkd.data.remote.download import remote_size
from cmapkd.data.remote.member import RemoteMember
from cmapkd.data.stored import Member

LAYOUT = 1


def shard_size(copies: Copies, url: str) -> int:
    """The bytes of a shard: those of its index, or what the server says. Raises DataError."""
    kept = _kept(copies, url)
    return kept["bytes"] if kept is not None else remote_size(url)


def read_remote_shard(copies: Copies, url: str, size: int) -> Shard:
    """The images and captions of a remote shard, from its index; the index is made first where there is none."""
    if (kept := _kept(copies, url)) is None:
        found = read_shard(copies.fetch(url, size))
        entries = cast(dict[str, Member], found.pictures)
        kept = {
            "layout": LAYOUT, "url": url, "bytes": size, "lost": found.lost, "why": found.why, "texts": found.texts,
            "pictures": {key: [entry.name.partition("/")[2], entry.offset, entry.size] for key, entry in entries.items()},
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
