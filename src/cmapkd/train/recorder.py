"""What a run leaves on disk while it trains: log lines, validation figures, the best student, checkpoints."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.core.errors import NonFiniteError
from cmapkd.core.log import MetricsLog, say
from cmapkd.core.types import LEVELS, Batch
from cmapkd.export.run import export_student
from cmapkd.train import checkpoint
from cmapkd.train.card_facts import facts
from cmapkd.train.centre import centred
from cmapkd.train.schedule import Moment
from cmapkd.train.state import Run

LOG_EVERY = 10
STUCK_AFTER, STUCK = 200, 0.98  # steps, share of ln(batch)


def due(step: int, every: int, steps: int) -> bool:
    """True after steps every, 2·every, … and after the last."""
    return (step + 1) % every == 0 or step + 1 == steps


def record(
    run: Run, step: int, moment: Moment, total: Tensor, losses: dict[str, Tensor], norm: Tensor, rate: float,
    weights: Tensor | None, log: MetricsLog,
) -> None:  # fmt: skip
    """Keep this step's figures as tensors; they become numbers every few steps, so that no step waits for them."""
    row = {"loss": total, "grad_norm": norm.detach(), "scale": run.learner.student.similarity.scale.detach().clone()}
    row |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
    if weights is not None:
        row |= {f"weight/{name}": weights[:, k].mean() for k, name in enumerate(LEVELS)}
        row |= {f"spread/{name}": weights[:, k].std() for k, name in enumerate(LEVELS)}
    row["lr"], row["levels"] = torch.tensor(rate), torch.tensor(len(run.objective.levels(moment)))
    row["bytes"] = torch.tensor(float(run.read))
    row["stage"] = torch.tensor([stage.name for stage in run.stages].index(moment.stage))
    run.pending.append((step, row))
    if due(step, LOG_EVERY, run.steps):
        flush(run, log)


def flush(run: Run, log: MetricsLog) -> None:
    rows = []
    for step, row in run.pending:
        names, values = list(row), torch.stack([value.float().cpu() for value in row.values()]).tolist()
        rows.append({"kind": "train", "step": step + 1, **dict(zip(names, values, strict=True))})
        log.write(rows[-1])
    run.pending.clear()
    warn_of_standstill(run, rows)


def warn_of_standstill(run: Run, rows: list[dict[str, Any]]) -> None:
    """Say once, after the warm-up, that L_align is still what guessing gives: ln of the batch size."""
    config = run.config.train
    least = STUCK * math.log(config.batch)
    stuck = [row["loss/align"] > least for row in rows if "loss/align" in row]
    if not run.warned and stuck and all(stuck) and rows[-1]["step"] > max(STUCK_AFTER, config.warmup * run.steps):
        run.warned = True
        say(
            f"warning: L_align is still ln({config.batch}) after {rows[-1]['step']} steps, which is guessing; are images "
            "and captions paired rightly (cmapkd data inspect), and is train.lr neither too high nor too low?"
        )


def evaluate(run: Run, step: int, log: MetricsLog) -> None:
    """Validation figures into the log; the best student by the chosen metric is kept in best/, an open_clip folder."""
    started = time.monotonic()
    with centred(run) as share:
        metrics = run.validate()
        run.validating += time.monotonic() - started
        flush(run, log)
        log.write({"kind": "val", "step": step, "centred": share, **metrics})
        score = metrics.get(run.config.eval.metric, float("-inf"))  # without data.val there is none
        if score > run.best:
            run.best = score
            best = f"{run.config.eval.metric} {score:.4f}, at step {step}"
            export_student(run.learner.student, run.folder / "best", facts(run, metrics, share, best=best))


def save(run: Run, step: int) -> Path:
    """Everything that a bit-exact resume needs."""
    tensors = {f"learner/{k}": v for k, v in run.learner.state_dict().items()}
    tensors |= {f"policy/{k}": v for k, v in run.policy.state_dict().items()}
    optimizer, groups = checkpoint.optimizer_tensors(run.optimizer)
    tensors |= {f"optimizer/{k}": v for k, v in optimizer.items()}
    state = {"weights": run.objective.weights, "balance": run.balance.table, "norms": run.balance.norms,
             "best": run.best if run.best > float("-inf") else None, "optimizer": groups, "policy": None}  # fmt: skip
    if run.policy_optimizer is not None:
        mine, groups = checkpoint.optimizer_tensors(run.policy_optimizer)
        tensors |= {f"policy_optimizer/{k}": v for k, v in mine.items()}
        state["policy"] = groups
    tensors["rng/torch"] = torch.get_rng_state()
    return checkpoint.save(run.folder / "checkpoints", step, tensors, state, run.config.train.keep)


def refuse_nonfinite(run: Run, step: int, batch: Batch, total: Tensor, losses: dict[str, Tensor], norm: Tensor) -> None:
    """Stop before the update; the weights are those of the step before and are saved."""
    bad = [name for name, loss in losses.items() if not bool(torch.isfinite(loss.detach()))]
    run.optimizer.zero_grad(set_to_none=True)
    save(run, step)
    raise NonFiniteError(
        f"step {step}: {'loss ' + ', '.join(bad) if bad else 'gradient norm'} is not finite (total {float(total):.4g}, norm "
        f"{float(norm):.4g}); samples {batch.samples[:8].tolist()}…; weights before the step are saved in "
        f"{run.folder / 'checkpoints'}; lower train.lr or use train.precision: fp32, then --resume"
    )
