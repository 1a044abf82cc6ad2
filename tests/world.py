"""A small run on disk for tests: built-in scenes, an untrained teacher folder, a config, and its finished cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import toy
from cmapkd.config.load import check
from cmapkd.config.schema import Config
from cmapkd.export.open_clip_folder import save_open_clip
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.train import checkpoint
from cmapkd.train.records.recorder import Recorder
from cmapkd.train.runs.distill import distill

CARD = {"mean": toy.MEAN, "std": toy.STD}


def teacher_folder(folder: Path, seed: int = 0, width: int = 48, **more: Any) -> Path:
    """An open_clip folder of random weights; `more` of its model config, as init_logit_bias."""
    words = tok.train(toy.CAPTIONS, 128, 24, folder.with_name(folder.name + "-tok"))
    torch.manual_seed(seed)
    cfg = toy.config(tok.vocabulary(words.folder), width=width, size=32, context=24) | more
    return save_open_clip(build(cfg), cfg, {"mean": list(toy.MEAN), "std": list(toy.STD)}, words.folder, folder, "toy")


def config(root: Path, **over) -> Config:
    """A CMAPKD run of 8 steps of 8 on 48 scenes; `over` replaces whole sections or values by dotted names with `__`."""
    tree = {
        "run": str(root / "run"),
        "data": {"train": "scenes:48:train", "val": "scenes:16:val", "views": 2},
        "teacher": {"model": f"local-dir:{root / 'teacher'}"},
        "cache": {"path": str(root / "cache"), "rank": 32, "calibration_samples": 48, "words": 12, "shard_rows": 40},
        "student": {"model": str(root / "student-init")},
        "train": {"steps": 8, "batch": 8, "precision": "fp32", "checkpoint_every": 3, "threads": 1},
        "eval": {"every": 4},
    }
    for key, value in over.items():
        *sections, leaf = key.split("__")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return check(tree, "test")


def cut_off(config: Config, step: int) -> None:
    """Train, and end as by Ctrl-C when the line of `step` is written."""
    record = Recorder.step

    def cut(self, now, *rest):
        record(self, now, *rest)
        if now == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Recorder, "step", cut)
        distill(config)


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    """All that the newest checkpoint of a run holds."""
    return checkpoint.load_generation(checkpoint.latest(run / "checkpoints"))[0]


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, in their order."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def steps_of(run: Path, kind: str = "train") -> list[int]:
    """The steps of a run's log lines of one kind, in their order."""
    return [row["step"] for row in rows(run) if row["kind"] == kind]


def arms_of(table: Path) -> list[str]:
    """The first column of the first table in a Markdown file."""
    lines = table.read_text().split("\n\n")[0].splitlines()
    return [line.split("|")[1].strip() for line in lines[2:]]
