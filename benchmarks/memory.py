"""Ratio g: peak resident memory of two cached CMAPKD steps against plain ones and ones with the teacher in the step."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders import ratio_row
from benchmarks.step import World


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Both rows, each kind of step in its own process; quick changes nothing."""
    peak = {kind: _peak(kind) for kind in ("plain", "cached", "online")}
    shown = ", ".join(f"{k} {v:.0f} MB" for k, v in peak.items())
    return [
        ratio_row("g", f"peak memory, cached / {other}", peak["cached"] / peak[other], target, "<=", shown)
        for other, target in (("plain", 1.03), ("online", 0.65))
    ]


def _peak(kind: str) -> float:
    out = subprocess.run([sys.executable, "-m", "benchmarks.memory", kind], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def _one_kind(kind: str) -> None:
    """Run two steps of one kind with an optimizer, then print this process's peak memory in MB."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), distils=kind != "plain")
        if kind == "online":
            world.wake_teacher()
        optimizer = torch.optim.AdamW((world.student if kind == "plain" else world.learner).parameters())
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            getattr(world, kind)()
            optimizer.step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    _one_kind(sys.argv[1])
