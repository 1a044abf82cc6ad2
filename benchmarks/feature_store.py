"""Ratios d1 and d2: random reads of the feature store, verified and not, against a copy in RAM and safetensors."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from cmapkd.cache.store import Field, Store, StoreWriter

TARGETS = {32: 0.60, 128: 0.65, 512: 0.55}  # verified read / RAM copy, by KiB a record
TOTAL = 256 << 20
BATCH = 64


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Rows of each record size; raises when a record read back differs from what was written."""
    rows = []
    for kib in (32, 128) if quick else (32, 128, 512):
        with tempfile.TemporaryDirectory() as folder:
            rows += _size(Path(folder), kib, 5 if quick else 9)
    return rows


def _size(folder: Path, kib: int, rounds: int) -> list[dict[str, Any]]:
    count, width = TOTAL // (kib << 10), kib << 10
    data = np.random.default_rng(0).integers(0, 256, (count, width), dtype=np.uint8)
    writer = StoreWriter(folder / "store", {"x": Field((width,), "uint8")}, count, count, {"k": "v"})
    writer.write_shard(range(count), {"x": data})
    writer.finish()
    save_file({"x": data}, folder / "x.safetensors")
    checked, plain = Store(folder / "store"), Store(folder / "store", verify=False)
    other = safe_open(folder / "x.safetensors", "np").get_slice("x")
    order = np.random.default_rng(1).permutation(count)[: 8 * BATCH].reshape(-1, BATCH)
    if not np.array_equal(checked.read("x", order[0]), data[order[0]]):
        raise AssertionError(f"records of {kib} KiB read back differ from what was written")

    def rows_of(batch: np.ndarray, row: Callable[[int], np.ndarray]) -> np.ndarray:
        out = np.empty((len(batch), width), dtype=np.uint8)
        for k, index in enumerate(batch.tolist()):
            out[k] = row(index)
        return out

    sides: dict[str, Callable[[np.ndarray], object]] = {
        "verified": lambda batch: checked.read("x", batch),
        "unverified": lambda batch: plain.read("x", batch),
        "ram": lambda batch: rows_of(batch, data.__getitem__),
        "safetensors": lambda batch: rows_of(batch, lambda k: other[k : k + 1][0]),
    }
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.process_time()
            for batch in order:
                side(batch)
            seconds[name].append(time.process_time() - start)
    best = {name: min(values) for name, values in seconds.items()}
    speed = ", ".join(f"{name} {order.size * width / value / 1e9:.1f}" for name, value in best.items())
    detail = f"{kib} KiB records, GB/s of one core, warm: {speed}"

    def row(key: str, name: str, ratio: float, target: float) -> dict[str, Any]:
        return {
            "id": key,
            "name": f"{name}, {kib} KiB",
            "ratio": ratio,
            "target": target,
            "better": ">=",
            "detail": detail,
        }

    return [
        row("d1", "verified random read / copy in RAM", best["ram"] / best["verified"], TARGETS[kib]),
        row("d2", "safetensors / our verified read", best["safetensors"] / best["verified"], 1.0),
        row("d2", "safetensors / our unverified read", best["safetensors"] / best["unverified"], 0.95),
    ]
