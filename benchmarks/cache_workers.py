"""Ratio k: a teacher's cache written by two worker processes against one, each on one processor with one thread.

Both sides write the same shards of the same calibrated teacher; rounds take turns and the least wall-clock time counts, so
that the ratio means something on an idle machine only; the CPU seconds beside it show what sharing costs on any. Files that
differ between the sides raise RuntimeError.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from msgspec import structs

from benchmarks.contenders import ratio_row
from cmapkd.config.load import check
from cmapkd.config.schema import Config
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.pyramid.targets import Targets
from cmapkd.teacher.build import write_features
from cmapkd.teacher.calibration_file import fit_targets
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower

TARGET = 1.7


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Row k; quick takes about a minute."""
    images, rounds = (200, 3) if quick else (2000, 3)
    torch.set_num_threads(1)
    config = check(
        {
            "run": "unused",
            "data": {"train": f"scenes:{images}:train", "views": 2},
            "teacher": {"model": "cmapkd-large-64"},
            "cache": {"path": "unused", "rank": 256, "calibration_samples": 64, "shard_rows": images // 10},
            "student": {"model": "cmapkd-large-64"},
            "train": {"steps": 1, "precision": "fp32", "device": "cpu"},
        },
        "cache_workers",
    )
    samples = open_samples(config.data.train, config.data, "train")
    assert config.teacher is not None
    tower = load_tower(config.teacher, words=config.cache.words)
    targets = fit_targets(config.data, config.cache, tower, samples)
    least: dict[int, float] = {1: float("inf"), 2: float("inf")}
    work = dict(least)
    files = set()
    for _ in range(rounds):
        for count in least:
            with tempfile.TemporaryDirectory() as folder:
                one = structs.replace(config, cache=structs.replace(config.cache, path=Path(folder)))
                begun = time.perf_counter()
                work[count] = min(work[count], build(one, samples, tower, targets, count))
                least[count] = min(least[count], time.perf_counter() - begun)
                files.add(digest(Path(folder)))
    if len(files) != 1:
        raise RuntimeError("one worker and two wrote different files")
    speeds = {count: images * config.data.views / seconds for count, seconds in least.items()}
    detail = (
        f"views/s: one worker {speeds[1]:.1f}, two {speeds[2]:.1f}; CPU s of all workers: one {work[1]:.1f}, two {work[2]:.1f}; "
        f"load at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; cmapkd-large-64"
    )
    return [ratio_row("k", "cache by two workers / by one", speeds[2] / speeds[1], TARGET, ">=", detail)]


def build(config: Config, samples: Samples, tower: DualEncoder, targets: Targets, count: int) -> float:
    """Write the features by `count` forked workers; returns their CPU seconds. Raises RuntimeError if one fails."""
    processors = sorted(os.sched_getaffinity(0))
    pids = []
    for rank in range(count):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                os.sched_setaffinity(0, {processors[rank % len(processors)]})
                write_features(config, samples, tower, targets)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    ended = [os.wait4(pid, 0) for pid in pids]
    if any(status for _, status, _ in ended):
        raise RuntimeError("a worker failed")
    return sum(usage.ru_utime + usage.ru_stime for *_, usage in ended)


def digest(folder: Path) -> str:
    """SHA-256 over the paths and contents of all files."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(str(path.relative_to(folder)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
