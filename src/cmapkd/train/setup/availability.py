"""Availability: the terms and levels of a method that a teacher and a student have something for; all others are off.

The rule. A term that reads the teacher's images or texts needs that side of the teacher; a term of halves needs one of its
sides. A term of levels needs one of them that teacher and student both give and that can learn: levels of a frozen side
cannot. Class texts and the teacher's own inputs need a teacher with both sides, masked images a student whose image side
learns. A method of which no term reads the teacher any more is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cmapkd.core.errors import UsageError
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, SIDES, Side
from cmapkd.methods import FINAL, METHODS, TERMS, needs_teacher
from cmapkd.methods.method import Method
from cmapkd.pyramid.levels import Shape

BOTH_SIDES = frozenset({"class_texts", "teacher_inputs"})


@dataclass(frozen=True)
class Model:
    """A teacher or a student as the rule sees it: its name in the config, its sizes, and the sides that do not learn."""

    name: str
    shape: Shape
    frozen: tuple[Side, ...] = ()

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that it gives, without those of a frozen side."""
        return tuple(name for name in self.shape.levels if side_of_level(name) not in self.frozen)


def side_of_level(name: str) -> Side:
    return "image" if name in IMAGE_LEVELS else "text"


def common_levels(teacher: Model, student: Model) -> tuple[str, ...]:
    """The levels that teach: given by both, of a side that learns."""
    return tuple(name for name in LEVELS if name in teacher.levels and name in student.levels)


def reasons_off(terms: Iterable[str], teacher: Model, student: Model) -> dict[str, str]:
    """The terms that are off, each with its reason."""
    found = {name: reason_off(name, teacher, student) for name in terms}
    return {name: reason for name, reason in found.items() if reason}


def reason_off(name: str, teacher: Model, student: Model) -> str:
    """The reason why a term has nothing to compare; empty where it is on."""
    term, sides = TERMS[name], teacher.shape.sides
    if not term.reads_teacher():
        return ""
    lacking = [side for side in SIDES if f"teacher_{side}" in term.reads and side not in sides]
    if term.reads & BOTH_SIDES:
        lacking = [side for side in SIDES if side not in sides]
    if lacking and not (term.halves and len(lacking) < len(SIDES)):
        return f"{teacher.name} has no {lacking[0]} tower"
    if "masked_images" in term.reads and "image" in student.frozen:
        return f"the image side of {student.name} is frozen"
    levels = common_levels(teacher, student)
    if term.is_on(levels):
        return ""
    wanted = [level for level in term.active_levels(LEVELS) or LEVELS if level not in levels]
    return _lack_of_levels(wanted, teacher, student)


def _lack_of_levels(wanted: list[str], teacher: Model, student: Model) -> str:
    """Words for the first cause why `wanted` levels are missing."""
    for model in (teacher, student):
        if missing := [name for name in wanted if name not in model.shape.levels]:
            return f"{model.name} gives no {', '.join(missing)}"
    side = next(side_of_level(name) for name in wanted)
    return f"the {side} side of {student.name} is frozen"


def available(method: Method, called: str, teacher: Model, student: Model) -> tuple[Method, dict[str, str]]:
    """(the method without the terms that are off, those with their reasons). called: the method's name.

    Raises UsageError where nothing of the method is left.
    """
    off = reasons_off(method.weights, teacher, student)
    kept = {name: weight for name, weight in method.weights.items() if name not in off}
    lost = needs_teacher(method.weights) and not needs_teacher(kept)
    if off and (lost or method.served is not None or not set(kept) & FINAL):
        reasons = "; ".join(f"{names}: {reason}" for reason, names in by_reason(off).items())
        raise UsageError(
            f"method '{called}' cannot teach here: {reasons}; use method: {', '.join(_left(teacher, student))}, or other models"
        )
    return replace(method, weights=kept, share={k: v for k, v in method.share.items() if k in kept}), off


def by_reason(off: dict[str, str]) -> dict[str, str]:
    """Reason to the names of the terms that are off for it, joined by commas."""
    return {reason: ", ".join(name for name, why in off.items() if why == reason) for reason in off.values()}


def _left(teacher: Model, student: Model) -> list[str]:
    """The methods that such a teacher and student can use with all or most of their terms."""
    counts = {
        name: len(reasons_off(method.weights, teacher, student))
        for name, method in METHODS.items()
        if needs_teacher(method.weights)
        and needs_teacher(set(method.weights) - set(reasons_off(method.weights, teacher, student)))
        and not (method.served and reasons_off(method.weights, teacher, student))
    }
    return sorted(counts, key=lambda name: (counts[name], name))[:4]
