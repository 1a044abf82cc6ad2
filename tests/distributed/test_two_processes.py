"""Two processes train as one does: every method, policy, order and task gives the losses and gradients of the golden curves."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from msgspec import structs
from torch import Tensor

from cmapkd.config.schema import Config
from cmapkd.distributed.collectives import first_before_others
from cmapkd.distributed.group import alone, is_first
from cmapkd.train.records.recorder import Recorder
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.prepare import build_cache
from distributed.together import together
from golden import curves

GOLDEN = json.loads(curves.KEPT.read_text())["curves"]
STEPS = 4  # of 8: the balance, and where a policy learns its first event, lie among them
SAME = curves.machine() == json.loads(curves.KEPT.read_text())["machine"]
FIRST = 1e-5 if SAME else 2e-2
LATER = 2e-3 if SAME else 5e-2  # Adam makes more of a rounding error with each step


class Enough(BaseException):
    """The end of a run whose further steps are of no interest."""


def first_steps(one: Config, steps: int) -> list[Tensor]:
    """Train so many steps; gives the gradients of the first, as the clipping gets them."""
    kept: list[Tensor] = []
    clip, record = torch.nn.utils.clip_grad_norm_, Recorder.step

    def clipped(parameters: list[Tensor], most: float) -> Tensor:
        kept.extend(p.grad.clone() for p in parameters if not kept_already)
        kept_already.append(True)
        return clip(parameters, most)

    def until(self: Recorder, step: int, *rest: object) -> None:
        record(self, step, *rest)
        if step + 1 == steps:
            self.flush()
            raise Enough

    kept_already: list[bool] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
        patch.setattr(Recorder, "step", until)
        distill(one)
    return kept


def work(root: Path, names: list[str]) -> dict[str, str]:
    """The log rows of every case's first steps, and the largest error of a gradient against one process, as JSON."""
    os.environ["CMAPKD_DATA"] = str(root / "data")
    found = {}
    for name in names:
        one = curves.config(root, name)
        with first_before_others():
            if one.cache.path is not None and not (one.cache.path / "teacher.json").is_file():
                build_cache(one)
        mine, worst = first_steps(one, STEPS), 0.0
        if is_first():
            with alone():
                of_one = first_steps(structs.replace(one, run=one.run.with_name(f"{one.run.name}-alone")), 1)
            assert len(mine) == len(of_one) > 0
            largest = max(float(g.norm()) for g in of_one)
            errors = [
                float((a - b).norm() / b.norm().clamp_min(1e-3 * largest)) for a, b in zip(mine, of_one, strict=True)
            ]
            worst = max(errors)
        rows = [json.loads(line) for line in (one.run / "metrics.jsonl").read_text().splitlines()]
        found[name] = json.dumps([worst, [row for row in rows if row["kind"] == "train"]])
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    return together(2, work, root / "answers", root, list(curves.cases()))[0]


@pytest.mark.parametrize("name", curves.cases())
def test_two_processes_give_the_losses_and_gradients_of_one(found, name):
    (worst, steps), golden = json.loads(found[name]), GOLDEN[name][:STEPS]
    assert len(steps) == STEPS
    if "bf16" not in name:  # whose rounding is a fifth of the smallest gradients; the norm of all is compared below
        within = 5e-5 if "convolutional" in name or not SAME else 1e-5
        assert worst < within, "the gradient of a parameter, relative to its norm"
    moved = []
    for k, (step, was) in enumerate(zip(steps, golden, strict=True)):
        within = FIRST if k == 0 else 2e-2 if "bf16" in name else LATER
        moved += [
            f"step {k + 1}: {figure} is {step[figure]!r}, but {was[figure]!r} in one process"
            for figure in was
            if not math.isclose(step[figure], was[figure], rel_tol=within, abs_tol=within)
        ]
    assert not moved
