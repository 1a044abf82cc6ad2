"""Term: one loss of a View, with its declared inputs, its options and its own learnt modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS
from cmapkd.methods.view import View
from cmapkd.pyramid.levels import Shape
from cmapkd.towers.dual import DualEncoder

Input = Literal[
    "teacher_image", "teacher_text", "image_errors", "text_errors", "image_tokens", "text_tokens", "image_summaries",
    "text_summaries", "bridge", "coupling", "masked_images", "labels", "class_prompts", "class_texts", "teacher_inputs",
    "further_teachers",
]  # fmt: skip
WITHOUT_TEACHER = frozenset({"masked_images", "labels", "class_prompts"})
OF_LEVELS = {
    **dict.fromkeys(("image_errors", "image_tokens", "image_summaries"), IMAGE_LEVELS),
    **dict.fromkeys(("text_errors", "text_tokens", "text_summaries"), TEXT_LEVELS),
}


@dataclass(frozen=True)
class TermSizes:
    """Sizes and towers from which a term builds its own modules.

    teacher: None where no term reads one. samples: of the training data. classes: number of class texts, 0 without.
    teacher_tower: the teacher itself, for terms that read `teacher_inputs` or `class_texts`. student_tower: to look at only.
    """

    student: Shape
    teacher: Shape | None
    samples: int = 0
    classes: int = 0
    teacher_tower: DualEncoder | None = None
    student_tower: DualEncoder | None = None

    @property
    def embeddings(self) -> tuple[int, int]:
        """Widths of the student's and the teacher's embedding."""
        assert self.teacher is not None, "a term that reads a teacher is built with one"
        return self.student.embedding, self.teacher.embedding

    @property
    def teacher_itself(self) -> DualEncoder:
        assert self.teacher_tower is not None, "a term that reads the teacher's inputs or class texts is built with it"
        return self.teacher_tower

    @property
    def student_itself(self) -> DualEncoder:
        assert self.student_tower is not None
        return self.student_tower


def sum_of(losses: Iterable[Tensor]) -> Tensor:
    """The sum of one or more scalars."""
    first, *rest = losses
    return sum(rest, first)


class Term(nn.Module, ABC):
    """One loss. It knows no weight, stage, optimizer, device or rank.

    reads: the parts of the View that it looks at, beside the student's final embeddings. levels: the levels of which it
    reads errors, tokens or summaries; where none of them is on, it is off. final: it acts on final embeddings, never fades,
    and gradient ratios are relative to it. halves: its loss is the sum of one of images and one of texts, so that a teacher
    with one side alone is enough. crosses: one of these halves compares the student's images with its own texts, so that the
    student needs both sides all the same. options: its switches, each with a default number or with the words it may
    be, the default first.
    """

    reads: ClassVar[frozenset[Input]] = frozenset()
    levels: ClassVar[tuple[str, ...]] = LEVELS
    final: ClassVar[bool] = True
    halves: ClassVar[bool] = False
    crosses: ClassVar[bool] = False
    options: ClassVar[Mapping[str, float | tuple[str, ...]]] = {}

    def __init__(self, sizes: TermSizes, chosen: Mapping[str, float | str] | None = None) -> None:
        """chosen: the switches that the config sets; the others have their defaults."""
        super().__init__()
        defaults = {name: value[0] if isinstance(value, tuple) else value for name, value in self.options.items()}
        self.chosen: dict[str, Any] = {**defaults, **(chosen or {})}

    @abstractmethod
    def forward(self, view: View) -> Tensor:
        """The loss, a float32 scalar."""

    def around(self, student: DualEncoder) -> AbstractContextManager[None]:
        """The context in which the student runs in training; outside it the student is plain again."""
        return nullcontext()

    @classmethod
    def active_levels(cls, on: Iterable[str]) -> tuple[str, ...]:
        """The levels among `on` of which this term reads anything."""
        read = {name for what in cls.reads for name in OF_LEVELS.get(what, ())} & set(cls.levels)
        return tuple(name for name in on if name in read)

    @classmethod
    def is_on(cls, levels: Iterable[str]) -> bool:
        """Whether the term has anything to compare while `levels` are on."""
        return not cls.reads_levels() or bool(cls.active_levels(levels))

    @classmethod
    def reads_levels(cls) -> bool:
        return any(what in OF_LEVELS for what in cls.reads)

    @classmethod
    def reads_teacher(cls) -> bool:
        return bool(cls.reads - WITHOUT_TEACHER)

    @classmethod
    def wraps_student(cls) -> bool:
        """Whether the student runs in a context of this term, so that the student alone is not its result."""
        return cls.around is not Term.around


class ServedTerm(Term):
    """A term whose result is more than the student: its modules are needed where the student is used.

    says: in words, to whom the run's scores belong. classifies: `logits` gives class logits, scored as `head/acc1` where
    the labelled validation data have the training classes.
    """

    says: ClassVar[str]
    classifies: ClassVar[bool] = False

    @abstractmethod
    def encoder(self, student: DualEncoder, teacher: DualEncoder) -> Any:
        """The Encoder (tasks/encoder.py) that validation scores."""

    def logits(self, student: DualEncoder, images: Tensor) -> Tensor:
        """Class logits [n, C] of uint8 images [n, 3, S, S]."""
        raise RuntimeError(f"{type(self).__name__} has no classifier")
