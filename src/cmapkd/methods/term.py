"""Term: one loss of a View, what it reads, and what is learnt for it alone. Method: a named, weighted list of terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from cmapkd.config.schema import StageConfig
from cmapkd.core.types import View
from cmapkd.models.tower import Shape, Tower

Read = Literal["teacher", "levels", "bridge", "masked", "labels", "bank", "inputs"]


@dataclass(frozen=True)
class Sizes:
    """What a term's own module is built from; `teacher` is None where no term reads one, `classes` 0 without a bank.

    tower: the teacher itself, for terms that read its `inputs` or a `bank`.
    """

    student: Shape
    teacher: Shape | None
    samples: int = 0
    classes: int = 0
    tower: Tower | None = None


@dataclass(frozen=True)
class Term:
    """loss: a scalar of the View; it knows no weight, stage, optimizer, device or rank.

    reads: what must be in the View beside the student's final embeddings: the `teacher`'s final embeddings, its
    `levels`, its `bridge`, the student on `masked` images, class `labels`, the teacher's `bank` of class texts, the
    teacher's own `inputs`. final: it acts on final embeddings, never fades, and is what shares are measured against.
    part: builds the module that is learnt for this term alone; the loss finds it as `view.parts[name]`.
    """

    loss: Callable[[View], Tensor]
    reads: frozenset[Read] = frozenset()
    final: bool = True
    part: Callable[[Sizes], nn.Module] | None = None


@dataclass(frozen=True)
class Method:
    """weights: each term's fixed weight. share: the target ratio of a term's trunk gradient to the final terms';
    where a share stands, the weight is only what the term starts with until it is calibrated.
    stages: the method's own schedule, where it has one; a schedule in the config replaces it.
    """

    weights: dict[str, float]
    share: dict[str, float] = field(default_factory=dict)
    about: str = ""
    stages: tuple[StageConfig, ...] = ()


def reads(*what: Read) -> frozenset[Read]:
    """The set of what a term reads; whoever reads anything of the teacher reads its final embeddings too."""
    own: tuple[Read, ...] = () if set(what) <= {"labels"} else ("teacher",)
    return frozenset(what + own)
