"""Ratio a2: a small student's cached CMAPKD step against its plain contrastive step, on the built-in world, as a run makes them.

The demo's config (`scenes`) on fewer images: batches read ahead, forward and backward pass, clipping, optimizer and log; one
thread, CPU seconds of the whole process, five steps of each in turn. The median of the turns' own ratios, since two neighbours
in time have the same load beside them.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.contenders import interleaved, ratio_row
from cmapkd.config.load import load_config
from cmapkd.core.log import MetricsLog
from cmapkd.train.batches import step_inputs, training_batches
from cmapkd.train.loop import gradients, trainable
from cmapkd.train.policy_step import with_policy
from cmapkd.train.records.recorder import Recorder
from cmapkd.train.setup.assemble import assemble
from cmapkd.train.setup.prepare import build_cache
from cmapkd.train.state import Run

STEPS, IMAGES = 5, 512
METHODS = {"plain": "scratch", "cached": "cmapkd"}


def run(quick: bool = True) -> list[dict[str, Any]]:
    """The row; quick has 6 turns instead of 12."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"CMAPKD_DATA": folder}):
        with contextlib.redirect_stderr(io.StringIO()):
            steps = {name: Steps(Path(folder), method) for name, method in METHODS.items()}
        for each in steps.values():
            each()
        seconds = interleaved(6 if quick else 12, steps)
    ratios = [b / a for a, b in zip(seconds["plain"], seconds["cached"], strict=True)]
    shown = ", ".join(f"{name} {1e3 * min(values) / STEPS:.0f}" for name, values in seconds.items())
    detail = f"CPU ms a step, min of {len(ratios)}: {shown}; ratios of the turns {min(ratios):.3f} to {max(ratios):.3f}"
    name = "small student's cached step / its plain step, built-in world"
    return [ratio_row("a2", name, statistics.median(ratios), 1.2, "<=", detail)]


class Steps:
    """STEPS further training steps of a run at each call."""

    def __init__(self, folder: Path, method: str) -> None:
        config = load_config(Path("scenes"), [
            f"run={folder / method}", f"cache.path={folder / 'cache'}", f"method={method}", f"data.train=scenes:{IMAGES}:train",
            "data.views=1", "data.val=null", "eval.every=null", "cache.calibration_samples=512", "train.steps=400", "train.threads=1",
        ])  # fmt: skip
        if not (folder / "cache").exists():
            build_cache(config)
        config.run.mkdir()
        self.run: Run = assemble(config, config.run)
        self.run.state.learner.train()
        self.recorder = Recorder(self.run, MetricsLog(config.run / "metrics.jsonl"))
        self.batches: Iterator[Any] = training_batches(self.run, 20)  # past the balance's first measures

    def __call__(self) -> None:
        state = self.run.state
        for _ in range(STEPS):
            step, prepared = next(self.batches)
            given = with_policy(self.run, step_inputs(self.run, prepared, step), step, self.recorder)
            total, losses = gradients(self.run, given, None)
            norm = torch.nn.utils.clip_grad_norm_(trainable(self.run, given.stage), self.run.config.train.clip)
            state.optimizer.step()
            state.learner.student.similarity.clamp_()
            self.recorder.step(step, given, total, losses, norm, 0.0)
