"""Ratio f: CPU time and memory of `cmapkd --help` and of checking a config, beside `import open_clip`."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.contenders import ratio_row

# The child reads its own peak memory: the value that the parent gets for a child includes the parent's own.
PROBE = """
import contextlib, io, json, sys, time
with contextlib.redirect_stdout(io.StringIO()):
    {body}
used = time.process_time() * 1000
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")] if sys.platform == "linux" else []
print(json.dumps([used, int(peak[0].split()[1]) / 1024 if peak else 0.0, "torch" in sys.modules]))
"""
BODIES = {
    "help": "from cmapkd.cli.main import main; assert main(['--help']) == 0",
    "config": "from pathlib import Path; from cmapkd.config.load import load_config; load_config(Path('scenes'))",
    "open_clip": "import open_clip",
}
CPU_MS, MEGABYTES, RATIO = 150.0, 60.0, 20.0


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Rows f1–f5. Raises RuntimeError when one of our two commands imports torch."""
    rounds = 3 if quick else 7
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in BODIES}
    for turn in range(rounds + 1):
        for name, body in BODIES.items():
            if name == "open_clip" and turn > 2:  # it takes seconds, and two rounds are enough
                continue
            milliseconds, megabytes, torch = probe(body)
            if torch and name != "open_clip":
                raise RuntimeError(f"startup: `{name}` imports torch; it must not")
            if turn:  # the first round writes bytecode and fills the disk cache
                found[name].append((milliseconds, megabytes))
    best = {name: min(ms for ms, _ in values) for name, values in found.items()}
    peak = {name: max(mb for _, mb in values) for name, values in found.items()}
    detail = "CPU ms min (median): " + ", ".join(
        f"{name} {best[name]:.0f} ({statistics.median(ms for ms, _ in values):.0f})" for name, values in found.items()
    )
    return [
        ratio_row("f1", "cmapkd --help, CPU ms", best["help"], CPU_MS, "<=", detail),
        ratio_row("f2", "cmapkd --help, peak MB", peak["help"], MEGABYTES, "<=", "peak resident set of the process"),
        ratio_row("f3", "config check, CPU ms", best["config"], CPU_MS, "<=", detail),
        ratio_row("f4", "config check, peak MB", peak["config"], MEGABYTES, "<=", "peak resident set of the process"),
        ratio_row("f5", "import open_clip / cmapkd --help, CPU", best["open_clip"] / best["help"], RATIO, ">=", detail),
    ]


def probe(body: str) -> tuple[float, float, bool]:
    """(CPU ms, peak MB, whether torch was imported) of a fresh interpreter that runs `body`."""
    source = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(body=body)], env=environment, capture_output=True, text=True, check=True
    )
    milliseconds, megabytes, torch = json.loads(done.stdout.splitlines()[-1])
    return milliseconds, megabytes, torch
