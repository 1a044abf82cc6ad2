"""What levels that sleep save of a step, measured: milliseconds and bytes, with them and without, turn by turn."""

from __future__ import annotations

import statistics
import time

import torch

from cmapkd.core.tree import move
from cmapkd.core.types import Batch
from cmapkd.towers.dual import evaluating
from cmapkd.train import step as stepping
from cmapkd.train.decide import awake
from cmapkd.train.schedule import Moment, at
from cmapkd.train.state import Run, teach

TURNS = 5


def measure_saving(run: Run) -> dict[str, float]:
    """Median of TURNS steps of one training batch under the first stage: all of its levels, and those still awake.

    ms: reading the teacher, forward and backward; bytes: what was read of the cache, 0 where the teacher runs live.
    {} where no level sleeps. Nothing learns or draws here: modules are in eval mode and the generator is put back.
    """
    moments = {"full": at(run.stages, 0.0)}
    moments["awake"] = awake(run, moments["full"])
    levels = {name: run.objective.levels(moment) for name, moment in moments.items()}
    if levels["full"] == levels["awake"]:
        return {}
    seen = run.loader.ledger.seen
    batch, state = move(run.loader.batch(0), run.learner.unit.device), torch.get_rng_state()
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in moments}
    with evaluating(run.learner):
        for _ in range(1 + TURNS):  # the first turn warms up
            for name, moment in moments.items():
                costs[name].append(_cost(run, batch, moment))
    run.optimizer.zero_grad(set_to_none=True)
    torch.set_rng_state(state)
    run.loader.ledger.seen = seen  # looking is not training
    found = {f"levels_{name}": float(len(levels[name])) for name in moments}
    for k, unit in enumerate(("ms", "bytes")):
        found |= {f"{unit}_{name}": round(statistics.median(row[k] for row in costs[name][1:]), 3) for name in moments}
    return found


def _cost(run: Run, batch: Batch, moment: Moment) -> tuple[float, float]:
    """(milliseconds, bytes) of one step without its update."""
    began = time.perf_counter()
    teaching = teach(run, batch, moment)
    masked = run.objective.needs("masked", moment)
    outputs = stepping.forward(run.learner, batch.student, run.objective.levels(moment), None, run.precision, masked)
    if losses := run.objective.losses(outputs, teaching, batch, moment):
        total = run.objective.total(losses, moment)
        total.backward()
        total.item()  # waits for a device
    return 1e3 * (time.perf_counter() - began), float(teaching.read if teaching is not None else 0)


def saying(saving: dict[str, float]) -> str:
    """The figures in one sentence."""
    return (
        f"{saving['levels_awake']:.0f} of {saving['levels_full']:.0f} levels were still awake at the end: a step without "
        f"its update takes {saving['ms_awake']:.1f} ms instead of {saving['ms_full']:.1f} and reads "
        f"{saving['bytes_awake'] / 1e3:.1f} kB instead of {saving['bytes_full'] / 1e3:.1f}"
    )
