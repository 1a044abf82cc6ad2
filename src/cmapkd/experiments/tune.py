"""`--tune`: four trials of each arm's strength, scored on a slice of the train split, never on the reported split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from cmapkd.config.schema import HOLDOUT, Config
from cmapkd.core import fsio
from cmapkd.core.log import say
from cmapkd.experiments.arms import Arm, run_all
from cmapkd.methods import resolve
from cmapkd.report.metric_names import KEY_METRIC

FACTORS = (1 / 3, 1.0, 3.0, 9.0)
RATES = (0.5, 1.0, 2.0, 4.0)
CRITERION = "mean_recall"  # over both directions and k = 1, 5, 10: less noisy than R@1 alone
SEED, SLICE = 1000, 0.1
TASKS = frozenset({"align", "task"})


def tune(config: Config, arms: Sequence[Arm], budget: float, out: Path, jobs: int = 1) -> list[Arm]:
    """Each arm at the best of four strengths by mean recall on a tenth of the train split; trials go to tune.jsonl.

    Strength: one factor on the weights and gradient ratios (`share`) of all terms but the contrastive and the task
    term; an arm without other terms (scratch) gets its four trials on the learning rate.
    """
    data = structs.replace(config.data, val=HOLDOUT, holdout=SLICE)
    base = structs.replace(config, data=data, eval=structs.replace(config.eval, every=None))
    tried = [(arm, trial) for arm in arms for trial in trials(config, arm)]
    results = run_all([(base, trial, SEED, budget, out / "tune") for _, trial in tried], jobs)
    chosen, lines = [], []
    for arm in arms:
        scores: dict[str, float] = {}
        for (tuned, trial), result in zip(tried, results, strict=True):
            if tuned is arm:
                scores[trial.about] = score = result.metrics.get(CRITERION, result.metrics.get(KEY_METRIC, 0.0))
                lines.append({"arm": arm.name, "trial": trial.about, "steps": result.steps, CRITERION: score})
        best = max((trial for tuned, trial in tried if tuned is arm), key=lambda trial: scores[trial.about])
        say(f"tuned {arm.name}: {best.about} of {', '.join(f'{score:.3f}' for score in scores.values())}")
        lines.append({"arm": arm.name, "chosen": best.about})
        chosen.append(Arm(arm.name, best.update, best.about))
    fsio.write_bytes(out / "tune.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    return chosen


def trials(config: Config, arm: Arm) -> list[Arm]:
    """The arm at each strength."""
    name = arm.update.get("method", config.method)
    weights, share = arm.update.get("weights", config.weights), arm.update.get("share", config.share)
    method = resolve(name, weights, share)
    strengths = {
        term: value for term, value in method.weights.items() if term not in TASKS and term not in method.share
    }
    if not strengths and not method.share:
        return [
            Arm(f"{arm.name}-lr{f:g}", {**arm.update, "train.lr": f * config.train.lr}, f"lr × {f:g}") for f in RATES
        ]
    return [
        Arm(
            f"{arm.name}-x{f:.2g}",
            {
                **arm.update,
                "weights": {**weights, **{term: f * value for term, value in strengths.items()}},
                "share": {**share, **{term: f * value for term, value in method.share.items()}},
            },
            f"strength × {f:.2g}",
        )
        for f in FACTORS
    ]
