"""Cost of a step with all levels and without those that sleep: milliseconds and bytes, measured turn by turn."""

from __future__ import annotations

import statistics
import time

import torch

from cmapkd.core.tree import move
from cmapkd.core.types import Batch
from cmapkd.methods.stage import ActiveStage
from cmapkd.towers.dual import evaluating
from cmapkd.train.batches import active_stage, inputs_of
from cmapkd.train.schedule import stage_at
from cmapkd.train.state import Run
from cmapkd.train.step import backward

TURNS = 5


def measure_saving(run: Run) -> dict[str, float]:
    """Median of TURNS steps of one training batch under the first stage: all of its levels, and those still awake.

    ms: reading the teacher, forward and backward; bytes: read from the store, 0 where the teacher runs live.
    {} where no level sleeps. Nothing learns or draws here: modules are in eval mode and the generator is put back.
    """
    stages = {"full": stage_at(run.stages, 0.0), "awake": active_stage(run, 0)}
    levels = {name: run.objective.needs(stage).levels for name, stage in stages.items()}
    if levels["full"] == levels["awake"]:
        return {}
    seen = run.loader.ledger.seen
    batch, state = move(run.loader.batch(0), run.state.learner.device), torch.get_rng_state()
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in stages}
    with evaluating(run.state.learner):
        for _ in range(1 + TURNS):  # the first turn warms up
            for name, stage in stages.items():
                costs[name].append(_cost(run, batch, stage))
    run.state.optimizer.zero_grad(set_to_none=True)
    torch.set_rng_state(state)
    run.loader.ledger.seen = seen  # looking is not training
    found = {f"levels_{name}": float(len(levels[name])) for name in stages}
    for k, unit in enumerate(("ms", "bytes")):
        found |= {f"{unit}_{name}": round(statistics.median(row[k] for row in costs[name][1:]), 3) for name in stages}
    return found


def _cost(run: Run, batch: Batch, stage: ActiveStage) -> tuple[float, float]:
    """(milliseconds, bytes) of one step without its update."""
    began = time.perf_counter()
    given = inputs_of(run, batch, stage)
    if run.objective.active(stage):
        backward(run.objective, run.state.learner, given, run.precision)[0].item()  # waits for a device
    return 1e3 * (time.perf_counter() - began), float(given.teacher.read if given.teacher is not None else 0)


def saying(saving: dict[str, float]) -> str:
    """The figures in one sentence."""
    return (
        f"{saving['levels_awake']:.0f} of {saving['levels_full']:.0f} levels were still awake at the end: a step without "
        f"its update takes {saving['ms_awake']:.1f} ms instead of {saving['ms_full']:.1f} and reads "
        f"{saving['bytes_awake'] / 1e3:.1f} kB instead of {saving['bytes_full'] / 1e3:.1f}"
    )
