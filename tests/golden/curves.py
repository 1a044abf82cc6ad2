"""Golden curves: the losses of short runs, kept in curves.json, so that a change that moves a figure is seen.

`make golden` (python tests/golden/curves.py) writes them anew; a changed file needs a line in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from cmapkd.config.load import check
from cmapkd.config.schedules import SCHEDULES
from cmapkd.config.schema import Config
from cmapkd.methods import METHODS
from cmapkd.policy import POLICIES
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.prepare import build_cache

KEPT = Path(__file__).with_name("curves.json")
STEPS = 8
FIGURES = ("loss", "grad_norm", "scale", "bytes")  # and every loss/ and weight/ of a step

RANDOM = {"model": "cmapkd-small-64", "tokenizer": "teacher"}
TRAINED = {"model": "shipped:scenes-teacher"}  # for methods whose student is frozen
HELD_OUT = {"data__holdout": 0.2, "policy__every": 1, "policy__collect": 0.3}
TASKS = {
    "contrastive": "scenes:12:7", "classification": "scenes:objects:1:train", "vqa": "scenes:12:train",
    "detection": "scenes:12:train", "captioning": "scenes:12:train",
}  # fmt: skip


def cases() -> dict[str, dict[str, Any]]:
    """Changes of each golden run against the base config, by name."""
    out: dict[str, dict[str, Any]] = {}
    for method in METHODS:
        student = TRAINED if METHODS[method].student == "frozen" else RANDOM
        out[f"{method} cached"] = {"method": method, "student": student}
    for method in ("cmapkd", "cmapkd_full", "fitnet", "dcclip", "clip_kd"):
        out[f"{method} live"] = {"method": method, "cache__path": None}
    for method in ("cmapkd", "mfd", "afd", "crd", "c2kd"):
        out[f"{method} accumulated"] = {"method": method, "train__accumulate": 2}
    out["cmapkd accumulated live"] = {"train__accumulate": 3, "cache__path": None}
    for policy in POLICIES:
        over = {"policy__name": policy} if policy in ("uniform", "random") else {"policy__name": policy, **HELD_OUT}
        out[f"cmapkd with {policy}"] = over | (
            {"policy__weights": {"P2": 0.0, "L1": 3.0}} if policy == "manual" else {}
        )
    out["cmapkd with rl, accumulated, at a price"] = {
        "policy__name": "rl", **HELD_OUT, "train__accumulate": 2, "policy__cost": 0.2, "policy__patience": 1,
    }  # fmt: skip
    for sampling in ("pps", "topk"):
        out[f"cmapkd_full from key tokens by {sampling}"] = {
            "method": "cmapkd_full", "cache__tokens": 5, "cache__sampling": sampling,
        }  # fmt: skip
    out["cmapkd from live key tokens"] = {"cache__tokens": 5, "cache__path": None}
    out["cmapkd from a coarse grid, fp16"] = {"cache__grid": 2, "cache__dtype": "fp16"}
    out["cmapkd into a convolutional student"] = {"student__model": "cmapkd-rn-small-64"}
    out["cmapkd into an inheriting student"] = {"student__inherit": True}
    out["cmapkd in bf16"] = {"train__precision": "bf16"}
    out["cmapkd with a fault in P3"] = {"corrupt": {"level": "P3", "share": 0.5}}
    out["cmapkd with noisy captions"] = {"corrupt": {"captions": 0.5}}
    out["mobileclip_dr with two teachers"] = {"method": "mobileclip_dr", "cache__ensemble": ["CACHE"]}
    for schedule in SCHEDULES:
        out[f"cmapkd in the order {schedule}"] = {"schedule": schedule}
    stages = [{"name": "a", "until": 0.5, "trainable": "adapters"}, {"name": "b", "until": 1.0, "lr": 0.5}]
    out["cmapkd_full with adapters first"] = {"method": "cmapkd_full", "schedule": stages}
    for task, train in TASKS.items():
        out[f"cmapkd beside {task}"] = {
            "weights": {"task": 0.5}, "task": {"name": task, "train": train, "batch": 4, "width": 32},
        }  # fmt: skip
    labels = {"data__train": "scenes:objects:4:train", "weights": {"task": 0.5}}
    return out | {"cmapkd on labels": labels}


def config(root: Path, name: str) -> Config:
    """A run of 8 steps of 8 on 48 scenes under the shipped teacher, with the changes of case `name`."""
    tree: dict[str, Any] = {
        "run": str(root / "runs" / name.replace(" ", "-").replace(",", "")),
        "data": {"train": "scenes:48:train", "views": 2},
        "teacher": dict(TRAINED),
        "cache": {"path": "CACHE", "rank": 128, "calibration_samples": 48, "shard_rows": 40},
        "student": dict(RANDOM),
        "train": {"steps": STEPS, "batch": 8, "precision": "fp32", "threads": 1, "device": "cpu", "centre": False},
    }
    for key, value in cases()[name].items():
        *sections, leaf = key.split("__")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    kept = tree["cache"]
    if kept["path"] is not None:
        of = {k: v for k, v in kept.items() if k not in ("path", "ensemble")}
        what = json.dumps([tree["data"], of, tree["student"] if tree["student"].get("inherit") else None])
        kept["path"] = str(root / "caches" / hashlib.sha256(what.encode()).hexdigest()[:12])
        kept["ensemble"] = [kept["path"] for _ in kept.get("ensemble", ())]
    return check(tree, name)


def run(root: Path, name: str) -> list[dict[str, float]]:
    """The figures of each step of a case; the caches under `root` are shared by those that can."""
    one = config(root, name)
    if one.cache.path is not None and not (one.cache.path / "teacher.json").is_file():
        build_cache(one)
    torch.manual_seed(0)
    folder = distill(one)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k in FIGURES or k.startswith(("loss/", "weight/"))}
        for row in rows
        if row["kind"] == "train"
    ]


def machine() -> dict[str, str]:
    """The release of torch and the processor, which decide the last digits."""
    return {"torch": torch.__version__.split("+")[0], "cpu": torch.backends.cpu.get_cpu_capability()}


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CMAPKD_DATA"] = str(Path(folder) / "data")
        found = {}
        for name in sys.argv[1:] or cases():
            found[name] = run(Path(folder), name)
            print(name, [round(row["loss"], 4) for row in found[name]], flush=True)
    kept = json.loads(KEPT.read_text())["curves"] if sys.argv[1:] and KEPT.is_file() else {}
    lines = ",\n".join(
        f"{json.dumps(name)}: [\n " + ",\n ".join(json.dumps(row) for row in rows) + "]"
        for name, rows in (kept | found).items()
    )
    KEPT.write_text(f'{{"machine": {json.dumps(machine())},\n"curves": {{\n{lines}}}}}\n')


if __name__ == "__main__":
    main()
