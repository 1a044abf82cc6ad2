"""`python -m benchmarks [--quick] [--only d,e]`: measure all ratios, print them with their targets, append JSON lines.

A missed target is printed as a miss and is no failure: machines differ. A benchmark that raises (its two sides gave
different results, or could not be measured) makes the exit code 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import operator
import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SUITES = {
    "a": "benchmarks.step:run benchmarks.small_step:run",
    "b": "benchmarks.step:run",
    "c": "benchmarks.step:run",
    "d": "benchmarks.feature_store:run",
    "e": "benchmarks.retrieval:run benchmarks.average_precision:run",
    "f": "benchmarks.startup:run",
    "g": "benchmarks.memory:run",
    "i": "benchmarks.loader:run benchmarks.feeding:run",
    "j": "benchmarks.scale_of_data:run",
    "k": "benchmarks.cache_workers:run",
    "l": "benchmarks.several_processes:run",
}
BETTER: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("cmapkd", "torch", "open_clip_torch", "timm", "numpy", "msgspec")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds instead of minutes")
    parser.add_argument("--only", default="", help=f"letters of {','.join(SUITES)}, separated by commas")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{time.strftime('%Y-%m-%d')}.jsonl")
    given = parser.parse_args(argv)
    letters = [letter for letter in given.only.split(",") if letter] or list(SUITES)
    unknown = [letter for letter in letters if letter not in SUITES]
    if unknown:
        parser.error(f"--only {unknown[0]}: no such benchmark; there are {', '.join(SUITES)}")
    rows, failed = collect(dict.fromkeys(name for letter in letters for name in SUITES[letter].split()), given.quick)
    print(table(rows))
    write(given.out, rows, argv)
    return 1 if failed else 0


def collect(functions: dict[str, None], quick: bool) -> tuple[list[Row], list[str]]:
    """(rows of the benchmarks that ran, names of those that raised); a failure does not stop the others."""
    rows, failed = [], []
    for name in functions:
        module, _, function = name.partition(":")
        print(f"{module} …", file=sys.stderr, flush=True)
        try:
            found = getattr(importlib.import_module(module), function)(quick)
        except Exception:
            traceback.print_exc()
            failed.append(module)
            continue
        rows += [{**row, "ok": BETTER[row["better"]](row["ratio"], row["target"])} for row in found]
    return rows, failed


def table(rows: list[Row]) -> str:
    """One line per ratio: name, measured value, target, ok or miss, detail."""
    width = max((len(title(row)) for row in rows), default=0)
    return "\n".join(
        f"{title(row):<{width}}  {row['ratio']:>9.3f} {row['better']} {row['target']:<7g} "
        f"{'ok  ' if row['ok'] else 'miss'}  {row.get('detail', '')}"
        for row in rows
    )


def title(row: Row) -> str:
    return f"{row['id']} {row['name']}" if row.get("id") else row["name"]


def write(path: Path, rows: list[Row], argv: list[str] | None, module: str = "benchmarks") -> None:
    """Append the rows with the command, versions and processor that repeat them."""
    words = sys.argv[1:] if argv is None else argv
    facts = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "command": shlex.join(["python", "-m", module, *words]),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({**facts, **row}, ensure_ascii=False) + "\n")


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name from the operating system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
