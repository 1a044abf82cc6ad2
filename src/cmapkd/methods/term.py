"""Term: one loss of a View, what it reads, and what is learnt for it alone. Method: a named, weighted list of terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from cmapkd.config.schema import StageConfig
from cmapkd.core.types import View
from cmapkd.pyramid.levels import Shape
from cmapkd.towers.dual import Tower

Read = Literal["teacher", "levels", "pooled", "bridge", "masked", "labels", "bank", "inputs", "ensemble"]


@dataclass(frozen=True)
class Sizes:
    """What a term's own module is built from; `teacher` is None where no term reads one, `classes` 0 without a bank.

    tower: the teacher itself, for terms that read its `inputs` or a `bank`. itself: the student, to look at only.
    """

    student: Shape
    teacher: Shape | None
    samples: int = 0
    classes: int = 0
    tower: Tower | None = None
    itself: Tower | None = None


@dataclass(frozen=True)
class Term:
    """loss: a scalar of the View; it knows no weight, stage, optimizer, device or rank.

    reads: what must be in the View beside the student's final embeddings: the `teacher`'s final embeddings, its
    `levels` (and the student's, `pooled`), its `bridge`, the student on `masked` images, class `labels`, the teacher's
    `bank` of class texts, the teacher's own `inputs`, the further teachers of an `ensemble` where the config names some.
    final: it acts on final embeddings, never fades, and is what shares are measured against.
    part: builds the module that is learnt for this term alone; the loss finds it as `view.parts[name]`.
    around: a context, of that part and the student, in which the student runs in training; without it the student is
    plain again. options: its switches, each with a default number or with the words it may be, the default first.
    """

    loss: Callable[[View], Tensor]
    reads: frozenset[Read] = frozenset()
    final: bool = True
    part: Callable[[Sizes], nn.Module] | None = None
    around: Callable[[Any, Tower], AbstractContextManager[None]] | None = None
    options: Mapping[str, float | tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Served:
    """How a method's result is used where the student alone does not carry it.

    encoder: from the terms' parts, the student and the teacher to an Encoder (tasks/encoder.py) that validation
    scores; says: what those scores belong to, for the model card. head: class logits [n, C] of uint8 images, scored
    as `head/acc1` where the labelled validation data have the training classes.
    """

    encoder: Callable[[Mapping[str, nn.Module], Tower, Tower], Any]
    says: str
    head: Callable[[Mapping[str, nn.Module], Tower, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Method:
    """weights: each term's fixed weight. share: the target ratio of a term's trunk gradient to the final terms';
    where a share stands, the weight is only what the term starts with until it is calibrated.
    stages: the method's own schedule, where it has one; a schedule in the config replaces it. student: a frozen one
    stays as it was pre-trained, and only the terms' parts learn. served: for a result that is more than the student.
    start: whether the student inherits from the teacher: as the config says, never (`random`), or always (`inherited`).
    """

    weights: dict[str, float]
    share: dict[str, float] = field(default_factory=dict)
    about: str = ""
    stages: tuple[StageConfig, ...] = ()
    student: Literal["trained", "frozen"] = "trained"
    served: Served | None = None
    start: Literal["config", "random", "inherited"] = "config"

    def inherits(self, asked: bool) -> bool:
        """Whether the student begins from the teacher's weights, where the config asks for it or not."""
        return self.start == "inherited" or (asked and self.start == "config")


def picked(view: View, term: str, options: Mapping[str, float | tuple[str, ...]]) -> dict[str, Any]:
    """The term's switches as they stand: the config's, else the default."""
    defaults = {name: value[0] if isinstance(value, tuple) else value for name, value in options.items()}
    return {**defaults, **view.options.get(term, {})}


def reads(*what: Read) -> frozenset[Read]:
    """The set of what a term reads; whoever reads anything of the teacher reads its final embeddings too."""
    own: tuple[Read, ...] = () if set(what) <= {"labels"} else ("teacher",)
    return frozenset(what + own)
