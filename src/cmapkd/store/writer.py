"""The writer of a store, shard by shard, which any number of processes on any number of machines may share.

While a store is built, its folder has a plan (building.json) and a folder build/ of claims (core/claims.py) and records: a
record names the files of one finished shard with their SHA-256. The worker that finds all records there writes the
manifest and removes the plan and the records, so that the finished folder is the same whoever wrote it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import cmapkd
from cmapkd.core import fsio
from cmapkd.core.claims import POLL, Claims
from cmapkd.core.errors import DiskError, IntegrityError, NonFiniteError
from cmapkd.core.log import say
from cmapkd.store.manifest import AGAIN, SCHEMA, plan_of, refuse_other, sealed
from cmapkd.store.shard_files import Record, ShardFiles, about
from cmapkd.store.shards import NAME, Field, as_bytes, checksums, npy_header, shard_files
from cmapkd.store.sizes import estimate_bytes, rows_of_a_shard


class StoreWriter:
    """Writes a store together with all other writers of the same folder and key; what is complete is kept.

    shard_rows: rows of a shard; by default those of a store that has been begun, else chosen by size. check: also verify
    every record of a store that is already finished. Raises DiskError where the disk is too small, IntegrityError when the
    folder was begun under another key or layout.
    """

    def __init__(
        self, path: Path, fields: dict[str, Field], rows: int, shard_rows: int | None, key: dict[str, str],
        check: bool = True,
    ) -> None:  # fmt: skip
        wrong = [name for name in fields if not NAME.fullmatch(name)]
        if wrong or rows < 1 or (shard_rows is not None and shard_rows < 1):
            raise ValueError(
                f"store of {rows} rows in shards of {shard_rows}, field names {list(fields)}: not possible"
            )
        self.path, self.fields, self.rows, self.key = path, fields, rows, key
        self._claims, self._claim = Claims(path / "build"), None
        self._done: set[int] = set()
        with self._claims.turn("store", f"the start of {path}"):
            known = plan_of(path)
            there = known["shard_rows"] if known else rows_of_a_shard(fields, rows)
            self.shard_rows: int = there if shard_rows is None else shard_rows
            self._plan = {"key": key, "fields": {k: f.describe() for k, f in fields.items()}, "rows": rows,
                          "shard_rows": self.shard_rows}  # fmt: skip
            self._files = ShardFiles(path, fields, rows, self.shard_rows)
            self._begin(known, check)

    def _begin(self, known: dict | None, check: bool) -> None:
        sizes = {} if known is None else self._files.sizes()
        if known is not None:
            refuse_other(self.path, known, self._plan)
        needed, free = estimate_bytes(self.fields, self.rows) - sum(sizes.values()), fsio.free_bytes(self.path)
        if needed > free:
            raise DiskError(
                f"cache {self.path}: needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; "
                "use a smaller cache.grid, cache.rank or data.views, or another cache.path"
            )
        if self.unfinished():
            self._forget_torn(sizes)
            return
        self._clear()
        if known is not None and not check and all(self._files.there(sizes, shard) for shard in range(self.shards)):
            return
        if known is None:  # shards of which nothing says what they are do not count
            for file in self.path.iterdir():
                if file.suffix in (".npy", ".xxh3"):
                    fsio.discard(file)
        fsio.write_json(self.path / "building.json", self._plan)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def shards(self) -> int:
        """Number of shards of the store."""
        return -(-self.rows // self.shard_rows)

    def unfinished(self) -> bool:
        """Whether shards may still be missing: no writer has sealed the store since it was begun."""
        return (self.path / "building.json").is_file()

    def done(self) -> int:
        """Number of shards that are known to be complete, whoever wrote them."""
        return len(self._done)

    def rows_done(self) -> int:
        """Number of rows in complete shards, nearly: every shard counts as a full one."""
        return min(self.rows, self.done() * self.shard_rows)

    def work(self) -> Iterator[range]:
        """Row ranges of missing shards, each claimed by this writer until the next is asked for; write each one.

        Ends when all shards are complete; waits for those that other workers have claimed, and takes over those of the dead.
        """
        self._done = {int(record.stem) for record in (self.path / "build").glob("*.json")}
        pending, pause = list(range(self.shards)), POLL[0]
        while pending:
            waiting = []
            for shard in pending:
                if self._recorded(shard):
                    continue
                self._claim = self._claims.take(f"shard {shard:05d}")
                if self._claim is None:
                    waiting.append(shard)
                    continue
                try:
                    if self._recorded(shard):
                        continue
                    if not self.unfinished():
                        return
                    if self._missing(shard):
                        pause = POLL[0]
                        yield self._files.rows_of(shard)
                        if not self._recorded(shard):  # left to another worker, or not written
                            waiting.append(shard)
                finally:
                    self.close()
            pending = waiting
            if pending:
                time.sleep(pause)
                pause = min(2 * pause, POLL[1])

    def missing_shards(self) -> list[range]:
        """Row ranges still to be written: those without complete arrays and valid checksums."""
        if not self.unfinished():
            return []
        return [self._files.rows_of(k) for k in range(self.shards) if not self._recorded(k) and self._missing(k)]

    def encode(self, rows: range, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Records of `rows`, given as float or raw arrays [len(rows), *shape], as they are stored.

        Raises NonFiniteError, or ValueError for fields or shapes that are not the store's.
        """
        if set(arrays) != set(self.fields):
            raise ValueError(f"fields {sorted(arrays)}: not those of {self.path}")
        encoded = {}
        for name, field in self.fields.items():
            try:
                encoded[name] = field.encode(arrays[name])
            except (NonFiniteError, ValueError) as error:
                raise type(error)(f"cache {self.path}: field {name} of rows from {rows.start}: {error}") from None
        return encoded

    def write_shard(self, rows: range, arrays: dict[str, np.ndarray]) -> None:
        """Encode and write the records of one shard. Raises what `encode` and `write_encoded` raise."""
        self.write_encoded(rows, self.encode(rows, arrays))

    def write_encoded(self, rows: range, encoded: dict[str, np.ndarray]) -> None:
        """Write the records of one shard, as `encode` gives them. Raises DiskError, or ValueError if `rows` is no shard."""
        shard = rows.start // self.shard_rows
        if rows != self._files.rows_of(shard) or {len(data) for data in encoded.values()} != {len(rows)}:
            raise ValueError(f"rows {rows}: not a shard of {self.path}")
        if self._claim is not None and not self._claim.held():
            say(
                f"{self.path.name}: shard {shard:05d} was taken over while this process was stopped; it is left to the other"
            )
            return
        record: Record = {}
        for name, field in self.fields.items():
            array, sums = shard_files(self.path, name, shard)
            data = encoded[name]
            parts = [npy_header(field, len(rows)), as_bytes(data, len(rows)).reshape(-1).data]
            record |= about(array, fsio.write_bytes(array, parts))
            record |= about(sums, fsio.write_bytes(sums, checksums(name, rows.start, data).tobytes()))
        self._write_record(shard, record)

    def finish(self) -> None:
        """Write the manifest, after which the store can be opened; one writer of all does it.

        Raises IntegrityError when shards are missing.
        """
        with self._claims.turn("store", f"the end of {self.path}"):
            if not self.unfinished():
                self._clear()  # its writer may have died before it did
                return
            self._done.clear()  # a shard whose files were damaged meanwhile has no record any more
            missing = self.missing_shards()
            if missing:
                raise IntegrityError(
                    f"cache {self.path}: rows {missing[0].start}-{missing[0].stop} are missing; {AGAIN}"
                )
            shards: Record = {}
            for shard in range(self.shards):
                shards |= json.loads(self._record(shard).read_bytes())
            manifest = {"schema": SCHEMA, "tool": cmapkd.__version__, **self._plan, "shards": shards}
            fsio.write_bytes(self.path / "manifest.json", sealed(manifest))
            fsio.remove_file(self.path / "building.json")
            self._clear()

    def close(self) -> None:
        """Give back the claimed shard. Complete shards stay, and later writers go on from them."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _clear(self) -> None:
        """Remove the records, and the claims and temporary files of dead writers of any machine; no shard is in work."""
        for file in [*self.path.iterdir(), *(self.path / "build").iterdir()]:
            if file.match("build/*.json") or file.match("build/shard *") or fsio.LEFT_BEHIND.fullmatch(file.name):
                fsio.discard(file)

    def _forget_torn(self, sizes: dict[str, int]) -> None:
        """Remove the records of shards whose files do not have their size."""
        for shard in range(self.shards):
            if not self._files.there(sizes, shard) and self._record(shard).is_file():
                fsio.discard(self._record(shard))

    def _record(self, shard: int) -> Path:
        return self.path / "build" / f"{shard:05d}.json"

    def _write_record(self, shard: int, record: Record) -> None:
        fsio.make_folder(self.path / "build")
        fsio.write_json(self._record(shard), record)
        self._done.add(shard)

    def _recorded(self, shard: int) -> bool:
        if shard not in self._done and self._record(shard).is_file():
            self._done.add(shard)
        return shard in self._done

    def _missing(self, shard: int) -> bool:
        """Whether a shard without a record has to be written."""
        if self._complete(shard):
            return False
        fsio.remove_file(self.path / "manifest.json")  # readers must not open a store that is being repaired
        return True

    def _complete(self, shard: int) -> bool:
        """Whether the files of a shard without a record are whole; they then get their record."""
        record = self._files.read(shard)
        if record is not None:
            self._write_record(shard, record)
        return record is not None
