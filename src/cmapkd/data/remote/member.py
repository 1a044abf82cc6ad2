"""One image inside a remote shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmapkd.data.remote.copies import Copies


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
        """Path of the local copy of the shard, which may not be there yet."""
        return self.copies.place(self.url)

    def length(self) -> int:
        return self.bytes_

    def fetch(self) -> Path:
        """The copy of the shard, downloaded first where it is not there. Raises DataError."""
        return self.copies.fetch(self.url, self.shard_bytes)

    def read(self) -> bytes:
        """The encoded bytes. Raises DataError when the shard cannot be fetched, OSError when it is cut off."""
        while True:
            path = self.fetch()
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
