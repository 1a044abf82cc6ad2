"""Training batches with the teacher outputs on them, on the device that trains, prepared while the step before is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from cmapkd.core.order import fingerprint
from cmapkd.core.tree import move
from cmapkd.core.types import Batch, Inputs, Needs, TeacherOutputs
from cmapkd.core.upload import await_upload, uploaded
from cmapkd.distributed.group import world
from cmapkd.methods.stage import ActiveStage
from cmapkd.teacher.live import LiveTeacher
from cmapkd.towers.dual import DualEncoder
from cmapkd.train.schedule import stage_at
from cmapkd.train.state import Run
from cmapkd.train.step import StepInputs


@dataclass(frozen=True)
class Prepared:
    """A batch, and its step's inputs where they could be read ahead.

    order: fingerprint of its samples, captions and views in their order, of this process's part of them.
    ready: the event after which all of it is on the GPU; None on a CPU.
    """

    batch: Batch
    order: int
    given: StepInputs | None = None
    ready: Any = None


def training_batches(run: Run, start: int) -> Iterator[tuple[int, Prepared]]:
    """(step, prepared batch) from step `start` to the last."""
    return run.loader.iterate(start, run.steps, partial(_prepare, run))


def step_inputs(run: Run, prepared: Prepared, step: int) -> StepInputs:
    """The inputs of a step: read ahead, or made now where a live teacher has to run or the levels that sleep have changed."""
    await_upload((prepared.batch, prepared.given), prepared.ready)
    stage = active_stage(run, step)
    if prepared.given is not None and prepared.given.stage == stage:
        return prepared.given
    return inputs_of(run, prepared.batch, stage)


def inputs_of(run: Run, batch: Batch, stage: ActiveStage) -> StepInputs:
    """The inputs of a batch in a stage. Nothing is asked of the teacher that no active term, and no policy, reads."""
    needs = run.objective.needs(stage, run.state.policy.reads_bridge)
    return StepInputs(batch, teacher_outputs(run, batch, needs), stage, needs)


def teacher_outputs(run: Run, batch: Batch, needs: Needs) -> TeacherOutputs | None:
    """Teacher outputs of a batch, None where nothing of a teacher is needed."""
    return run.teacher.outputs(batch, needs) if run.teacher is not None and needs.teacher else None


def active_stage(run: Run, step: int, probing: bool = False) -> ActiveStage:
    """The stage at a step, without the levels that the policy has put to sleep; probing: those may be on that are due a test."""
    stage = stage_at(run.stages, step / run.steps)
    if stage.policy == "uniform":
        return stage
    return replace(stage, levels=run.state.policy.awake(stage.levels, probing))


def on_device(run: Run, batch: Batch) -> Batch:
    """The batch on the device that trains; texts are trimmed before, since their length on a GPU is a number to wait for."""
    teacher = batch.teacher
    if teacher is not None and isinstance(run.teacher, LiveTeacher) and world() == 1:  # else rows of all come together
        teacher = trimmed(run.teacher.tower, teacher)
    student = trimmed(run.state.learner.student, batch.student)
    return move(replace(batch, student=student, teacher=teacher), run.state.learner.device)


def trimmed(tower: DualEncoder, inputs: Inputs) -> Inputs:
    """The inputs without the padding that no text of the batch needs."""
    return replace(inputs, ids=tower.text.trim(inputs.ids), trimmed=True)


def _prepare(run: Run, step: int, batch: Batch) -> Prepared:
    """Called by the loader's thread. A live teacher runs in the step itself."""
    drawn = torch.stack([batch.samples, batch.captions, batch.views], 1).numpy()
    order = fingerprint(drawn, *run.loader.stripe)
    (moved, given), ready = uploaded(partial(_on_device, run, step, batch), run.state.learner.device)
    return Prepared(moved, order, given, ready)


def _on_device(run: Run, step: int, batch: Batch) -> tuple[Batch, StepInputs | None]:
    moved = on_device(run, batch)
    if run.teacher is None or run.teacher.needs_inputs:
        return moved, None
    stage = active_stage(run, step)
    needs = run.objective.needs(stage, run.state.policy.reads_bridge)
    teacher = teacher_outputs(run, batch, needs)  # rows are looked up by indices that are still on the CPU
    return moved, StepInputs(moved, teacher, stage, needs)
