"""The schedule at one step: which levels teach, how terms are scaled, and the learning rate."""

from __future__ import annotations

import math

from cmapkd.config.schema import StageConfig
from cmapkd.methods import FINAL, TERMS
from cmapkd.methods.stage import ActiveStage


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
