"""SCHEDULES: which levels teach when. A schedule is a list of stages; every order is one word of config."""

from __future__ import annotations

import math
from typing import Any

from cmapkd.config.schema import StageConfig
from cmapkd.core.errors import UsageError, did_you_mean
from cmapkd.core.types import LEVELS
from cmapkd.methods import FINAL, TERMS
from cmapkd.methods.method import Method
from cmapkd.methods.stage import ActiveStage

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
    schedule: str | tuple[StageConfig, ...] | None, method: Method | None = None
) -> tuple[StageConfig, ...]:
    """A named schedule or the config's own stages, checked: ends rise to 1, scaled terms exist. None: the method's."""
    if schedule is None:
        schedule = (method.stages if method else ()) or "all_on"
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            hint = did_you_mean(schedule, SCHEDULES)
            raise UsageError(f"schedule '{schedule}' is unknown; known: {', '.join(SCHEDULES)}{hint}")
        return SCHEDULES[schedule]
    ends = [stage.until for stage in schedule]
    if not ends or ends != sorted(set(ends)) or ends[-1] != 1.0:
        raise UsageError(f"schedule: the stages' `until` are {ends}; they must rise strictly and end at 1.0")
    for stage in schedule:
        for term in stage.scale:
            if term not in TERMS:
                hint = did_you_mean(term, TERMS)
                raise UsageError(
                    f"schedule stage '{stage.name}' scales unknown term '{term}'; known: {', '.join(TERMS)}{hint}"
                )
    return schedule


def stage_at(stages: tuple[StageConfig, ...], progress: float) -> ActiveStage:
    """The active stage at `progress` in [0, 1). Annealed terms follow ½(1 + cos πx) over the stage; final terms never do."""
    start = 0.0
    for stage in stages:
        if progress < stage.until or stage is stages[-1]:
            break
        start = stage.until
    inside = (progress - start) / max(stage.until - start, 1e-9)
    fade = 0.5 * (1 + math.cos(math.pi * min(max(inside, 0.0), 1.0))) if stage.anneal else 1.0
    factors = {term: stage.scale.get(term, 1.0) * (1.0 if term in FINAL else fade) for term in TERMS}
    return ActiveStage(stage.name, stage.levels, factors, stage.lr, stage.policy, stage.trainable, progress)


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the first `warmup` share of the steps, then cosine to 0: the factor of the base rate."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
