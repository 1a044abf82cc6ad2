"""Lesson: a step's batch and the teacher's word on it, on the device that trains, made while the step before is trained."""

from __future__ import annotations

from dataclasses import dataclass

from cmapkd.core.tree import move
from cmapkd.core.types import Batch, Teaching
from cmapkd.train.decide import awake
from cmapkd.train.schedule import Moment, at
from cmapkd.train.state import Run, teach


@dataclass(frozen=True)
class Lesson:
    """teaching: None where no term reads a teacher, and until `taught` where it could not be read ahead (not `early`)."""

    batch: Batch
    teaching: Teaching | None = None
    early: bool = False


def prepare(run: Run, step: int, batch: Batch) -> Lesson:
    """Called by the loader's thread. A live teacher runs in the step itself, and what a policy that learns has put to
    sleep is known only then.
    """
    device = run.learner.unit.device
    if run.teacher is None or run.teacher.needs_inputs or run.policy.learns:
        return Lesson(move(batch, device))
    teaching = teach(run, batch, awake(run, at(run.stages, step / run.steps)))
    return Lesson(move(batch, device), teaching, early=True)


def taught(run: Run, lesson: Lesson, moment: Moment) -> Teaching | None:
    """The teacher's word on the lesson's batch."""
    return lesson.teaching if lesson.early else teach(run, lesson.batch, moment)
