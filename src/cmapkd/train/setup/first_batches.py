"""Measurements on the first training batches: units of the level errors, costs of the levels, an inherited student's projectors and bias."""

from __future__ import annotations

from dataclasses import replace

import torch

from cmapkd.core.tree import move
from cmapkd.core.types import LEVELS
from cmapkd.policy.base import Learning
from cmapkd.train.batches import inputs_of
from cmapkd.train.exchange import exchange
from cmapkd.train.schedule import stage_at
from cmapkd.train.setup.start_bias import fit_bias
from cmapkd.train.setup.start_projectors import fit_projectors
from cmapkd.train.state import Run

BATCHES = 4


def learn_from_first_batches(run: Run, inherits: bool) -> None:
    """Set what depends on the data before the first step. inherits: the student began from the teacher's weights."""
    stage = replace(stage_at(run.stages, 0.0), levels=run.levels)
    levels = run.objective.needs(stage).levels
    learner, count = run.state.learner, min(BATCHES, run.steps)
    sigmoid = inherits and learner.student.similarity.kind == "sigmoid"
    if (run.teacher is None or not (levels or inherits)) and not sigmoid:
        return
    batches = [move(run.loader.batch(step), learner.device) for step in range(count)]
    given = [inputs_of(run, batch, stage) for batch in batches]
    found = [(one.batch, one.teacher) for one in given if one.teacher is not None]
    if sigmoid and all(teacher.similarity.kind == "softmax" for _, teacher in found):
        fit_bias(learner.student, batches[0])
    if inherits and learner.projectors is not None:
        fit_projectors(learner, found)
    if not levels:
        return
    found = [(batch, exchange(teacher)) for batch, teacher in found]
    learner.errors.measure_units([teacher.levels for _, teacher in found])
    if isinstance(run.state.policy, Learning):
        first = found[0][1].levels
        size = torch.tensor([float(first[k].values.numel()) if k in first else 0.0 for k in LEVELS])
        run.state.policy.cost.copy_(len(LEVELS) * size / size.sum())
