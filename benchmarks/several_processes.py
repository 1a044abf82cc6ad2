"""Ratios l1 and l2: samples a second of training on two processes against one, and gradients averaged once against DDP.

One thread for each process; wall time, since the point is to use two processors at once. The two sides take turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.contenders import ratio_row

STUDENT, BATCH = "ViT-B-32", 8
RUN = [
    "data.train=scenes:512:train", "eval.every=null", "train.epochs=null", "train.precision=fp32", "train.threads=1",
    "train.centre=false", "student.inherit=false", "data.val=null",
]  # fmt: skip


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Both rows. Raises RuntimeError where the two ways to average do not give the same gradients."""
    with tempfile.TemporaryDirectory() as folder:
        return [_training(Path(folder), 12 if quick else 40), _averaging(Path(folder), 3 if quick else 8)]


def _training(folder: Path, steps: int) -> dict[str, Any]:
    cache = [f"cache.path={folder / 'cache'}"]
    _cmapkd("cache", *cache)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(2):
        for devices, found in rates.items():
            path = folder / f"run-{devices}-{turn}"
            _cmapkd("distill", *cache, f"run={path}", f"train.steps={steps}", f"train.devices={devices}")
            final = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()][-1]
            found.append(final["samples"] / final["train_seconds"])
    one, two = (max(found) for found in rates.values())
    detail = f"{two:.0f} and {one:.0f} samples/s, recipe scenes, batch 128, {steps} steps"
    return ratio_row("l1", "training on two processes / one (samples a second)", two / one, 1.7, ">=", detail)


def _cmapkd(command: str, *words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "cmapkd", command, "--config", "scenes", *RUN, *words], env=environment, capture_output=True, text=True
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"cmapkd {command} ended with {done.returncode}: {done.stderr[-400:]}")


def _averaging(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of a plain step of two processes whose gradients are averaged once after it, over those of DDP."""
    import torch.multiprocessing as mp

    mp.start_processes(_steps, (str(folder), rounds), nprocs=2, start_method="spawn")
    ours, ddp = (statistics.median(found) for found in json.loads((folder / "seconds.json").read_text()))
    detail = f"{1e3 * ours:.0f} and {1e3 * ddp:.0f} ms, {STUDENT}, {BATCH} pairs a process, gloo, median of {rounds}"
    return ratio_row("l2", "step with gradients averaged once / with DDP", ours / ddp, 1.05, "<=", detail)


def _steps(rank: int, folder: str, rounds: int) -> None:
    from cmapkd.config.schema import TowerConfig
    from cmapkd.distributed.collectives import average_
    from cmapkd.distributed.group import joined
    from cmapkd.towers.load import load_tower

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(20_000 + os.getppid() % 20_000)
    torch.set_num_threads(1)
    with joined(300):
        torch.manual_seed(0)
        towers = Towers(load_tower(TowerConfig(model=STUDENT)))
        wrapped = DistributedDataParallel(towers)
        torch.manual_seed(rank)
        images, ids = torch.rand(BATCH, 3, 224, 224), torch.randint(1, 49_000, (BATCH, 77))

        def ours() -> None:
            _loss(*towers(images, ids)).backward()
            average_(p.grad for p in towers.parameters() if p.grad is not None)

        seconds = [[], []]
        kept: list[list[Tensor]] = []
        for turn in range(rounds + 1):
            for side, step in enumerate((ours, lambda: _loss(*wrapped(images, ids)).backward())):
                towers.zero_grad(set_to_none=True)
                began = time.perf_counter()
                step()
                if turn:
                    seconds[side].append(time.perf_counter() - began)
                else:
                    kept.append([p.grad.clone() for p in towers.parameters() if p.grad is not None])
        if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*kept, strict=True)):
            raise RuntimeError("gradients averaged once differ from those of DDP")
        if rank == 0:
            (Path(folder) / "seconds.json").write_text(json.dumps(seconds))


class Towers(nn.Module):
    """Both towers in one forward pass, as DDP wants it."""

    def __init__(self, student: Any) -> None:
        super().__init__()
        self.native = student.native
        self.native.logit_scale.requires_grad_(False)  # not in these losses

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.native.encode_image(images), self.native.encode_text(ids)


def _loss(image: Tensor, text: Tensor) -> Tensor:
    scores = 10.0 * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    target = torch.arange(len(scores))
    return 0.5 * (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target))
