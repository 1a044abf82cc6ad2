"""Ratios d: random verified reads of the feature store against a row copy in memory and other stores.

Every reader fills a batch with the same random rows of the same data from warm files; rounds are interleaved and the
least CPU time of all rounds counts. A reader that returns other bytes than were stored raises RuntimeError.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.contenders import ratio_row
from cmapkd.store.shards import Field
from cmapkd.store.store import Store, StoreWriter

Reader = Callable[[np.ndarray], np.ndarray]  # rows int64 [n] → float16 [n, width]

TARGETS = {32: 0.60, 128: 0.65, 512: 0.55}  # record KB → checked read / row copy in memory
PEERS = (  # peer, ours, target
    ("safetensors rows", "checked", 1.0),
    ("safetensors names", "checked", 1.0),
    ("MDS", "checked", 2.5),
    ("LMDB", "checked", 0.65),
    ("LMDB", "unchecked", 0.95),
)
SHOWN = 128  # the size whose ratio to a peer is held against the target
BATCH_BYTES = 8 << 20


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Rows d1 (one per record size), d2 (one per installed peer) and d3; quick takes about 15 s."""
    megabytes, rounds = (96, 5) if quick else (256, 9)
    speeds = {size: measure(size, megabytes << 20, rounds) for size in TARGETS}
    rows = []
    for size, target in TARGETS.items():
        found = speeds[size]
        detail = (
            f"GB/s: memory {found['memory']:.1f}, checked {found['checked']:.1f}, unchecked {found['unchecked']:.1f}"
        )
        name = f"checked read / row copy in memory, {size} KB"
        rows.append(ratio_row("d1", name, found["checked"] / found["memory"], target, ">=", detail))
    plain = {size: found["plain"] / found["checked"] for size, found in speeds.items()}
    detail = "; ".join(f"{size} KB {ratio:.2f}" for size, ratio in plain.items())
    rows.append(ratio_row("d3", f"plain read / mapped read, both checked, {SHOWN} KB", plain[SHOWN], 0.8, ">=", detail))
    for peer, ours, target in PEERS:
        if peer not in speeds[SHOWN]:
            continue
        ratios = {size: found[ours] / found[peer] for size, found in speeds.items()}
        detail = "; ".join(
            f"{size} KB {ratio:.2f} (peer {speeds[size][peer]:.1f} GB/s)" for size, ratio in ratios.items()
        )
        rows.append(ratio_row("d2", f"{ours} read / {peer}, {SHOWN} KB", ratios[SHOWN], target, ">=", detail))
    return rows


def measure(kilobytes: int, total: int, rounds: int) -> dict[str, float]:
    """GB/s of each reader with records of `kilobytes` KB."""
    width, n = kilobytes << 9, total // (kilobytes << 10)
    rng = np.random.default_rng(kilobytes)
    data = rng.integers(0, 1000, (n, width), dtype=np.uint16).view(np.float16)
    batch = max(4, BATCH_BYTES // data[0].nbytes)
    with tempfile.TemporaryDirectory() as folder:
        readers = {"memory": memory_reader(data, batch), **ours(Path(folder) / "store", data)}
        for name, (module, build) in OTHERS.items():
            if importlib.util.find_spec(module) is not None:
                readers[name] = build(Path(folder), data)
        for name, reader in readers.items():
            rows = rng.integers(0, n, batch)
            if not np.array_equal(reader(rows).view(np.uint16), data[rows].view(np.uint16)):
                raise RuntimeError(f"{name}: read other bytes than were stored, at {kilobytes} KB a record")
        least = dict.fromkeys(readers, float("inf"))
        for _ in range(rounds):
            batches = rng.integers(0, n, (max(4, total // BATCH_BYTES), batch))
            for name, reader in readers.items():
                begun = time.process_time()
                for rows in batches:
                    reader(rows)
                least[name] = min(least[name], (time.process_time() - begun) / batches.size)
    return {name: data[0].nbytes / seconds / 1e9 for name, seconds in least.items()}


def memory_reader(data: np.ndarray, batch: int) -> Reader:
    """The upper limit: rows copied one by one between two arrays in memory."""
    out = np.empty((batch, data.shape[1]), data.dtype)

    def read(rows: np.ndarray) -> np.ndarray:
        for position, row in enumerate(rows.tolist()):
            out[position] = data[row]
        return out

    return read


def ours(folder: Path, data: np.ndarray) -> dict[str, Reader]:
    """Our store by memory map with and without its checksums, and by plain reads with them."""
    shard_rows = max(1, (16 << 20) // data[0].nbytes)
    with StoreWriter(folder, {"x": Field(data.shape[1:], "float16")}, len(data), shard_rows, {}) as writer:
        for rows in writer.missing_shards():
            writer.write_shard(rows, {"x": data[rows.start : rows.stop]})
        writer.finish()
    stores = {"checked": Store(folder, how="map"), "unchecked": Store(folder, verify=False, how="map"),
              "plain": Store(folder, how="plain")}  # fmt: skip
    return {name: partial(store.read, "x") for name, store in stores.items()}


def safetensors_rows(folder: Path, data: np.ndarray) -> Reader:
    """One tensor [n, width], one slice per record."""
    save_file({"x": data}, folder / "rows.safetensors")
    part = safe_open(folder / "rows.safetensors", framework="numpy").get_slice("x")
    return _gather(data, lambda row: part[row])


def safetensors_names(folder: Path, data: np.ndarray) -> Reader:
    """One named tensor per record."""
    save_file({str(row): data[row] for row in range(len(data))}, folder / "names.safetensors")
    file = safe_open(folder / "names.safetensors", framework="numpy")
    return _gather(data, lambda row: file.get_tensor(str(row)))


def lmdb_values(folder: Path, data: np.ndarray) -> Reader:
    """One value per record, read in place in one transaction."""
    lmdb: Any = importlib.import_module("lmdb")
    environment = lmdb.open(str(folder / "lmdb"), map_size=4 * data.nbytes + (64 << 20))
    with environment.begin(write=True) as writing:
        for row in range(len(data)):
            writing.put(row.to_bytes(4, "big"), data[row].tobytes())
    reading = environment.begin(buffers=True)
    return _gather(data, lambda row: np.frombuffer(reading.get(row.to_bytes(4, "big")), data.dtype))


def mds_samples(folder: Path, data: np.ndarray) -> Reader:
    """One sample per record in a local MosaicML Streaming dataset without its optional hashes."""
    streaming: Any = importlib.import_module("streaming")
    with streaming.MDSWriter(out=str(folder / "mds"), columns={"x": f"ndarray:float16:{data.shape[1]}"}) as writer:
        for record in data:
            writer.write({"x": record})
    stored = streaming.LocalDataset(str(folder / "mds"))
    return _gather(data, lambda row: stored[row]["x"])


def _gather(data: np.ndarray, one: Callable[[int], np.ndarray]) -> Reader:
    def read(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), data.shape[1]), data.dtype)
        for position, row in enumerate(rows.tolist()):
            out[position] = one(row)
        return out

    return read


OTHERS: dict[str, tuple[str, Callable[[Path, np.ndarray], Reader]]] = {
    "safetensors rows": ("safetensors", safetensors_rows),
    "safetensors names": ("safetensors", safetensors_names),
    "MDS": ("streaming", mds_samples),
    "LMDB": ("lmdb", lmdb_values),
}
