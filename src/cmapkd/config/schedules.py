"""SCHEDULES, the named lists of training stages, and the rules a list of stages must keep. Imports no torch."""

from __future__ import annotations

from typing import Any, get_args

from cmapkd.config.names import terms
from cmapkd.config.schema import StageConfig
from cmapkd.config.section import Level
from cmapkd.core.errors import UsageError, did_you_mean

LEVELS = get_args(Level)
DEEP = ("P5", "L4")
MIDDLE = ("P4", "P5", "L3", "L4")
LOWER = ("P3", "P4", "P5", "L2", "L3", "L4")


def _stage(name: str, until: float, levels: tuple = LEVELS, **rest: Any) -> StageConfig:
    return StageConfig(name=name, until=until, levels=levels, **rest)


SCHEDULES: dict[str, tuple[StageConfig, ...]] = {
    "all_on": (_stage("all", 1.0),),
    "all_then_anneal": (_stage("all", 0.5), _stage("anneal", 1.0, anneal=True)),
    "all_then_drop": (
        _stage("all", 0.6),
        _stage("without P2 L1", 0.75, LOWER),
        _stage("without P3 L2", 0.9, MIDDLE),
        _stage("deep", 1.0, DEEP),
    ),
    "two_stage": (_stage("deep", 0.5, MIDDLE), _stage("all", 1.0)),
    "coarse_to_fine": (_stage("coarse", 0.25, DEEP), _stage("medium", 0.5, MIDDLE), _stage("fine", 1.0)),
    "fine_to_coarse": (
        _stage("fine", 0.5),
        _stage("medium", 0.75, MIDDLE),
        _stage("coarse", 1.0, DEEP),
    ),
    "design": (  # 5 + 5 + 10 epochs and a refinement of the policy, as fractions of the run
        _stage("coarse", 0.225, DEEP, policy="uniform"),
        _stage("medium", 0.45, MIDDLE, policy="uniform"),
        _stage("fine", 0.9),
        _stage("refine", 1.0, lr=0.1),
    ),
    "final_only": (_stage("final", 1.0, ()),),
}


def resolve_schedule(
    schedule: str | tuple[StageConfig, ...] | None, own: tuple[StageConfig, ...] = ()
) -> tuple[StageConfig, ...]:
    """The stages of a run: the config's schedule, else the method's `own` stages, else all levels throughout.

    Raises UsageError, a line for each error, for an unknown name or stages that break the rules.
    """
    if schedule is None:
        schedule = own or "all_on"
    if wrong := schedule_errors(schedule):
        raise UsageError("\n".join(wrong))
    return SCHEDULES[schedule] if isinstance(schedule, str) else schedule


def schedule_errors(schedule: str | tuple[StageConfig, ...]) -> list[str]:
    """A line for each error: an unknown name, ends that do not rise strictly to 1, or a scaled term that does not exist."""
    if isinstance(schedule, str):
        if schedule in SCHEDULES:
            return []
        hint = did_you_mean(schedule, SCHEDULES)
        return [f"schedule '{schedule}' is unknown; known: {', '.join(SCHEDULES)}{hint}"]
    wrong, ends = [], [stage.until for stage in schedule]
    if not ends or ends != sorted(set(ends)) or ends[-1] != 1.0:
        wrong.append(f"schedule: the stages' `until` are {ends}; they must rise strictly and end at 1.0")
    for stage in schedule:
        for term in stage.scale:
            if term not in terms():
                hint = did_you_mean(term, terms())
                wrong.append(
                    f"schedule stage '{stage.name}' scales unknown term '{term}'; known: {', '.join(terms())}{hint}"
                )
    return wrong
