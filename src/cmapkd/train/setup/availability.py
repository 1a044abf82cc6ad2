"""Availability: the terms and levels of a method that a teacher and a student have something for; all others are off.

The rule. A term that reads the teacher's images or texts needs that side of both models; a term of halves needs one side that
both have, and a student with both sides where it crosses them. A term that reads no teacher (L_align) needs a student with
both sides. A term of levels needs one of them that teacher and student both give and that can learn: levels of a frozen side
cannot. Class texts and the teacher's own inputs need models with both sides, masked images a student whose image side
learns. A method of which no term reads the teacher any more, or that has no term in one of its stages, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cmapkd.config.schema import StageConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, SIDES, Side
from cmapkd.methods import FINAL, METHODS, TERMS, needs_teacher
from cmapkd.methods.method import Method
from cmapkd.methods.term import Term
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
    term = TERMS[name]
    if reason := _lack_of_tower(term, teacher, student):
        return reason
    if not term.reads_teacher():
        return ""
    if "masked_images" in term.reads and "image" in student.frozen:
        return f"the image side of {student.name} is frozen"
    levels = common_levels(teacher, student)
    if term.is_on(levels):
        return ""
    wanted = [level for level in term.active_levels(LEVELS) or LEVELS if level not in levels]
    return _lack_of_levels(wanted, teacher, student)


def _lack_of_tower(term: type[Term], teacher: Model, student: Model) -> str:
    """Words for the side that a term needs and that one of the models, or both, do not have; empty where there is none."""
    read: list[Side] = [side for side in SIDES if f"teacher_{side}" in term.reads or term.reads & BOTH_SIDES]
    mine: list[Side] = list(SIDES) if term.crosses or not term.reads_teacher() else read
    needed = ((teacher, read), (student, mine))
    lacking = [
        side for side in SIDES if any(side in sides and side not in model.shape.sides for model, sides in needed)
    ]
    crossed = term.crosses and student.shape.sides != SIDES
    if not lacking or (term.halves and not crossed and len(lacking) < len(SIDES)):
        return ""
    names = list(dict.fromkeys(model.name for model, _ in needed if lacking[0] not in model.shape.sides))
    return (
        f"neither {' nor '.join(names)} has a {lacking[0]} tower"
        if names[1:]
        else f"{names[0]} has no {lacking[0]} tower"
    )


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
    final = bool(set(kept) & FINAL) or (kept and student.shape.sides != SIDES)
    if off and (lost or method.served is not None or not final or idle(method.stages, kept, teacher, student)):
        reasons = "; ".join(f"{names}: {reason}" for reason, names in by_reason(off).items())
        raise UsageError(
            f"method '{called}' cannot teach here: {reasons}; use method: {', '.join(_left(teacher, student))}, or other models"
        )
    return replace(method, weights=kept, share={k: v for k, v in method.share.items() if k in kept}), off


def idle(stages: Iterable[StageConfig], terms: Iterable[str], teacher: Model, student: Model) -> str:
    """The name of the first stage in which none of `terms` has anything to compare; empty where there is none."""
    common = common_levels(teacher, student)

    def on(name: str, stage: StageConfig) -> bool:
        return stage.scale.get(name, 1.0) > 0 and TERMS[name].is_on([k for k in stage.levels if k in common])

    terms = list(terms)
    return next((stage.name for stage in stages if not any(on(name, stage) for name in terms)), "")


def by_reason(off: dict[str, str]) -> dict[str, str]:
    """Reason to the names of the terms that are off for it, joined by commas."""
    return {reason: ", ".join(name for name, why in off.items() if why == reason) for reason in off.values()}


def _left(teacher: Model, student: Model) -> list[str]:
    """The methods that such a teacher and student can use with all or most of their terms."""
    counts = {}
    for name, method in METHODS.items():
        off = reasons_off(method.weights, teacher, student)
        kept = [term for term in method.weights if term not in off]
        if needs_teacher(kept) and not (off and (method.served or idle(method.stages, kept, teacher, student))):
            counts[name] = len(off)
    return sorted(counts, key=lambda name: (counts[name], name))[:4]
