"""The files of a store that is being written: which shards are there in their size, and which are whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.store.shards import Field, checksums, map_shard, npy_header, shard_files

Record = dict[str, dict[str, object]]  # file name → bytes, sha256


def about(file: Path, sha256: str) -> Record:
    """The record of one file."""
    return {file.name: {"bytes": file.stat().st_size, "sha256": sha256}}


@dataclass(frozen=True)
class ShardFiles:
    """The files of all shards of a store with this layout."""

    path: Path
    fields: dict[str, Field]
    rows: int
    shard_rows: int

    def rows_of(self, shard: int) -> range:
        """The rows of a shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))

    def sizes(self) -> dict[str, int]:
        """Bytes of each file of records and checksums that is there."""
        return {file.name: file.stat().st_size for file in self.path.iterdir() if file.suffix in (".npy", ".xxh3")}

    def there(self, sizes: dict[str, int], shard: int) -> bool:
        """Whether all files of a shard are there in their size."""
        rows = len(self.rows_of(shard))
        for name, field in self.fields.items():
            array, sums = shard_files(self.path, name, shard)
            size = len(npy_header(field, rows)) + rows * field.nbytes
            if sizes.get(array.name) != size or sizes.get(sums.name) != 8 * rows:
                return False
        return True

    def read(self, shard: int) -> Record | None:
        """The record of a shard whose files are whole by their checksums; None if they are not."""
        record: Record = {}
        rows = self.rows_of(shard)
        for name, field in self.fields.items():
            array, sums = shard_files(self.path, name, shard)
            if not array.is_file() or not sums.is_file():
                return None
            data = map_shard(array, field, len(rows))
            if data is None or checksums(name, rows.start, data).tobytes() != sums.read_bytes():
                return None
            record |= about(array, fsio.sha256_file(array)) | about(sums, fsio.sha256_file(sums))
        return record
