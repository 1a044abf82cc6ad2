"""View: everything that a term may look at, student and teacher on one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from cmapkd.core.types import Inputs, LogitScale, Pair, Side, StudentOutputs, TeacherOutputs

T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """Student and teacher outputs on one batch, and what the run knows about the batch.

    similarity: the student's scale and bias. positives: bool [B, B], pairs of one image. samples: int64 [B] image indices.
    levels: the active levels. coupling: α_ij [4, 4], or [B, 4, 4] per sample. temperatures: τ_ij [4, 4]. labels: int64 [B],
    −1 where unknown. class_prompts: the student's embeddings of the class prompts [C, E_s]. class_texts: the teacher's, unit
    rows [C, E]. inputs: the teacher's own pixels and ids. progress: share of the training that is done.
    pairs: int64 (i, j) of the level pairs that may have a coupling above zero, None where that is not known.

    A field is None where no active term reads it; the properties without `_or_none` give what a term has declared to read.
    """

    student: StudentOutputs
    similarity: LogitScale
    positives: Tensor
    samples: Tensor
    levels: tuple[str, ...] = ()
    teacher_or_none: TeacherOutputs | None = None
    coupling_or_none: Tensor | None = None
    temperatures_or_none: Tensor | None = None
    labels_or_none: Tensor | None = None
    class_prompts_or_none: Tensor | None = None
    class_texts_or_none: Tensor | None = None
    inputs_or_none: Inputs | None = None
    progress: float = 0.0
    pairs: tuple[Tensor, Tensor] | None = None

    @property
    def teacher(self) -> TeacherOutputs:
        return present(self.teacher_or_none, "teacher_image or teacher_text")

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that teacher and student have, of which a term of halves sums its losses."""
        return tuple(side for side in self.teacher.sides if self.student.final.of(side).shape[-1])

    @property
    def bridges(self) -> tuple[Pair[Tensor], Pair[Tensor]]:
        """The student's and the teacher's rows in the shared space, [B, 4, E] per modality."""
        return present(self.student.bridge, "bridge"), present(self.teacher.bridge, "bridge")

    @property
    def masked(self) -> Tensor:
        """The student's projected embeddings of masked images [B, E]."""
        return present(self.student.masked, "masked_images")

    @property
    def coupling(self) -> Tensor:
        return present(self.coupling_or_none, "coupling")

    @property
    def temperatures(self) -> Tensor:
        return present(self.temperatures_or_none, "coupling")

    @property
    def labels(self) -> Tensor:
        return present(self.labels_or_none, "labels")

    @property
    def class_prompts(self) -> Tensor:
        return present(self.class_prompts_or_none, "class_prompts")

    @property
    def class_texts(self) -> Tensor:
        return present(self.class_texts_or_none, "class_texts")

    @property
    def inputs(self) -> Inputs:
        return present(self.inputs_or_none, "teacher_inputs")


def present(value: T | None, name: str) -> T:
    """The value. Raises RuntimeError where it is None: the term does not declare that it reads it."""
    if value is None:
        raise RuntimeError(f"a term looks at what it does not declare: add '{name}' to its `reads`")
    return value
