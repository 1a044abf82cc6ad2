"""Teacher: gives the teacher outputs of a batch, whether the model runs now or its features were stored."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from cmapkd.core.types import Batch, Needs, TeacherOutputs


@runtime_checkable
class Teacher(Protocol):
    """needs_inputs: whether batches must carry the teacher's own pixels and token ids."""

    needs_inputs: bool

    def outputs(self, batch: Batch, needs: Needs) -> TeacherOutputs: ...
