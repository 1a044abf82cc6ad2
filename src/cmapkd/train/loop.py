"""The training loop: read this file first. One batch goes from disk to weights in the order of the lines of `train`."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.cache.teacher import Teacher
from cmapkd.config.schema import Config, StageConfig
from cmapkd.core.ahead import ahead
from cmapkd.core.device import pick_precision
from cmapkd.core.errors import NonFiniteError
from cmapkd.core.log import MetricsLog, Progress, say
from cmapkd.core.types import LEVELS, Batch, Teaching
from cmapkd.data.loader import Loader
from cmapkd.losses.alignment import pair_divergence
from cmapkd.policy import Policy
from cmapkd.train import checkpoint
from cmapkd.train import step as stepping
from cmapkd.train.balance import Balance
from cmapkd.train.credit import PAIRS, measure_credit
from cmapkd.train.heads.head import TaskHead, task_loss
from cmapkd.train.learner import Learner
from cmapkd.train.objective import Objective
from cmapkd.train.optimizer import clamp_scale
from cmapkd.train.schedule import Moment, at, learning_rate

LOG_EVERY = 10
BALANCE_CHUNK = 128


@dataclass
class Run:
    """Everything that one training run consists of."""

    config: Config
    folder: Path
    steps: int
    learner: Learner
    optimizer: torch.optim.AdamW
    loader: Loader
    stages: tuple[StageConfig, ...]
    objective: Objective
    balance: Balance
    policy: Policy
    policy_optimizer: torch.optim.Optimizer | None
    teacher: Teacher | None
    held_out: Loader | None
    validate: Callable[[], dict[str, float]]
    task: TaskHead | None = None
    best: float = float("-inf")
    validating: float = 0.0  # seconds
    pending: list[tuple[int, dict[str, Tensor]]] = field(default_factory=list)

    @property
    def precision(self) -> torch.dtype:
        return pick_precision(self.config.train.precision, self.learner.unit.device)


def train(run: Run, start: int, log: MetricsLog) -> int:
    """Train from step `start` to the end, or to a signal; returns the step reached, already in a checkpoint."""
    config, progress = run.config, Progress(run.steps, run.config.run.name)
    stop = Stop()
    run.learner.train()
    works = task_batches(run, start)
    for step, batch in run.loader.iterate(start, run.steps):
        batch = stepping.move(batch, run.learner.unit.device)
        moment = awake(run, at(run.stages, step / run.steps))
        teaching = teach(run, batch, moment)
        weights, coupling = decide(run, teaching, moment, step, log)
        share = run.objective.task_weight(moment)
        work = next(works) if share > 0 else None
        if run.balance.is_due(step):
            rebalance(run, batch, teaching, work, moment, step, log)

        def losses_of(outputs, teaching=teaching, batch=batch, moment=moment, coupling=coupling):  # noqa: ANN001, ANN202
            losses = run.objective.losses(outputs, teaching, batch, moment, coupling)
            return run.objective.total(losses, moment), losses

        levels, masked = run.objective.levels(moment), run.objective.needs("masked", moment)
        run.optimizer.zero_grad(set_to_none=True)
        if not run.objective.active(moment):
            total, losses = run.learner.unit.new_zeros(()), {}
        elif config.train.accumulate == 1:
            total, losses = stepping.whole(run.learner, batch, levels, weights, losses_of, run.precision, masked)
        else:
            total, losses = stepping.chunked(
                run.learner, batch, levels, weights, losses_of, run.precision, config.train.accumulate, masked
            )
        if work is not None:
            losses["task"] = own_loss(run, work)
            (share * losses["task"]).backward()
            total = total + share * losses["task"].detach()
        norm = torch.nn.utils.clip_grad_norm_(trainable(run, moment), config.train.clip)
        if not bool(torch.isfinite(norm) & torch.isfinite(total)):
            refuse_nonfinite(run, step, batch, total, losses, norm)
        rate = config.train.lr * moment.lr * learning_rate(step, run.steps, config.train.warmup)
        for group in run.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        run.optimizer.step()
        clamp_scale(run.learner.student.clip)

        record(run, step, moment, total, losses, norm, rate, weights, log)
        if due(step, config.train.checkpoint_every, run.steps) or stop.asked:
            flush(run, log)
            save(run, step + 1)
        if config.eval.every and due(step, config.eval.every, run.steps):
            evaluate(run, step + 1, log)
        progress.update(step + 1, f"{moment.stage} loss {float(total):.3f}")
        if stop.asked:
            say(f"stopped by signal after step {step + 1}; continue with --resume")
            raise SystemExit(128 + stop.number)
    progress.close()
    return run.steps


def due(step: int, every: int, steps: int) -> bool:
    """True after steps every, 2·every, … and after the last."""
    return (step + 1) % every == 0 or step + 1 == steps


def task_batches(run: Run, start: int) -> Iterator[Any]:
    """L_task's own batches of the steps at which it has a weight, read ahead; no other is read."""
    if run.task is None:
        return iter(())
    wanted = (s for s in range(start, run.steps) if run.objective.task_weight(at(run.stages, s / run.steps)) > 0)
    return ahead(run.task.batch, wanted)


def own_loss(run: Run, work: Any) -> Tensor:
    """L_task on its own batch."""
    assert run.task is not None
    return task_loss(run.task, run.learner.student, work, run.precision)


def awake(run: Run, moment: Moment, probing: bool = False) -> Moment:
    """The moment without the levels that the policy has put to sleep."""
    if moment.policy == "uniform":
        return moment
    return replace(moment, levels=run.policy.awake(moment.levels, probing))


def teach(run: Run, batch: Batch, moment: Moment) -> Teaching | None:
    """The teacher's word on a batch: only the levels that a term reads now."""
    if run.teacher is None or not run.objective.needs("teacher", moment):
        return None
    bridge = run.objective.needs("bridge", moment) or run.policy.reads_bridge
    return run.teacher.teach(batch, run.objective.levels(moment), bridge)


def decide(
    run: Run, teaching: Teaching | None, moment: Moment, step: int, log: MetricsLog
) -> tuple[Tensor | None, Tensor | None]:
    """Level weights and coupling of this batch; a policy that learns first looks at the credit when it is due."""
    if teaching is None or moment.policy == "uniform":
        return None, None
    if run.policy.learns and (step + 1) % run.config.policy.every == 0:
        improve_policy(run, awake(run, at(run.stages, step / run.steps), probing=True), step, log)
    if not run.objective.levels(moment):
        return None, None
    return run.policy(teaching, step / run.steps)


def improve_policy(run: Run, moment: Moment, step: int, log: MetricsLog) -> None:
    """One credit event: a training batch against a held-out batch that no gradient of the student ever saw."""
    levels = run.objective.levels(moment)
    if not levels:
        return
    assert run.held_out is not None
    event = step // run.config.policy.every
    device = run.learner.unit.device
    held, batch = (stepping.move(b, device) for b in (run.held_out.batch(event), run.loader.batch(step)))
    refuse_shared_samples(held, batch)
    held_teaching, teaching = teach(run, held, moment), teach(run, batch, moment)
    assert teaching is not None
    pairs = run.objective.pairs if "pyramid_align" in run.objective.active(moment) else None

    def held_out_loss() -> Tensor:
        masked = run.objective.needs("masked", moment)
        outputs = stepping.forward(run.learner, held.student, levels, None, run.precision, masked)
        return run.objective.total(run.objective.losses(outputs, held_teaching, held, moment), moment)

    def errors() -> dict[str, Tensor]:
        outputs = stepping.forward(run.learner, batch.student, levels, None, run.precision)
        found = run.learner.level_errors(outputs, teaching)
        if pairs is not None and outputs.bridge is not None:
            mine, theirs = outputs.bridge, teaching.bridge
            found[PAIRS] = pair_divergence(mine.image, mine.text, theirs.image, theirs.text, pairs.temperatures)
        return found

    encoder = [p for name, p in run.learner.student.named_parameters() if p.requires_grad and "logit_scale" not in name]
    credit = measure_credit(run.learner, encoder, run.optimizer, held_out_loss, errors)
    figures = run.policy.observe(teaching, step / run.steps, credit, run.policy_optimizer)
    log.write({"kind": "policy", "step": step + 1, **{k: v for k, v in figures.items() if math.isfinite(v)}})


def refuse_shared_samples(held: Batch, batch: Batch) -> None:
    """A reward measured on what the student trains on rewards memory; such a batch is a bug and stops the run."""
    shared = set(held.samples.tolist()) & set(batch.samples.tolist())
    if shared:
        raise RuntimeError(
            f"policy: sample {min(shared)} is both trained on and held out; the reward would be worthless"
        )


def rebalance(
    run: Run, batch: Batch, teaching: Teaching | None, work: Any, moment: Moment, step: int, log: MetricsLog
) -> None:
    """Measure trunk-gradient norms on a slice of the batch, and set λ when the moment's measures are complete.

    L_task is a final term also where it has a batch of its own.
    """
    rows = torch.arange(min(len(batch), max(BALANCE_CHUNK, len(batch) // run.config.train.accumulate)))
    part, taught = stepping.slice_batch(batch, rows), stepping.slice_teaching(teaching, rows)
    levels, masked = run.objective.levels(moment), run.objective.needs("masked", moment)
    outputs = stepping.forward(run.learner, part.student, levels, None, run.precision, masked)
    losses = run.objective.losses(outputs, taught, part, moment)
    if work is not None:
        losses["task"] = own_loss(run, work)
    trunk = (p for name, p in run.learner.student.named_parameters() if "logit_scale" not in name)
    run.balance.measure(losses, run.objective.weights, trunk)
    if run.balance.settle(step, run.objective.weights):
        for row in run.balance.table[-len(run.balance.share) :]:
            log.write({"kind": "balance", **row})


def trainable(run: Run, moment: Moment) -> list[torch.nn.Parameter]:
    """Parameters with a gradient this step; in a stage that trains adapters only, the student's are dropped."""
    if moment.trainable == "adapters":
        for p in run.learner.student.parameters():
            p.grad = None
    return [p for p in run.learner.parameters() if p.grad is not None]


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


def record(
    run: Run, step: int, moment: Moment, total: Tensor, losses: dict[str, Tensor], norm: Tensor, rate: float,
    weights: Tensor | None, log: MetricsLog,
) -> None:  # fmt: skip
    """Keep this step's figures as tensors; they become numbers every few steps, so that no step waits for them."""
    row = {"loss": total, "grad_norm": norm.detach(), "scale": run.learner.student.scale.detach().clone()}
    row |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
    if weights is not None:
        row |= {f"weight/{name}": weights[:, k].mean() for k, name in enumerate(LEVELS)}
        row |= {f"spread/{name}": weights[:, k].std() for k, name in enumerate(LEVELS)}
    row["lr"], row["levels"] = torch.tensor(rate), torch.tensor(len(run.objective.levels(moment)))
    row["stage"] = torch.tensor([stage.name for stage in run.stages].index(moment.stage))
    run.pending.append((step, row))
    if due(step, LOG_EVERY, run.steps):
        flush(run, log)


def flush(run: Run, log: MetricsLog) -> None:
    for step, row in run.pending:
        names, values = list(row), torch.stack([value.float().cpu() for value in row.values()]).tolist()
        log.write({"kind": "train", "step": step + 1, **dict(zip(names, values, strict=True))})
    run.pending.clear()


def evaluate(run: Run, step: int, log: MetricsLog) -> None:
    """Validation figures into the log; the best student by the chosen metric is kept in best/."""
    started = time.monotonic()
    metrics = run.validate()
    run.validating += time.monotonic() - started
    flush(run, log)
    log.write({"kind": "val", "step": step, **metrics})
    score = metrics.get(run.config.eval.metric, float("-inf"))
    if score > run.best:
        run.best = score
        tensors = {f"student/{k}": v for k, v in run.learner.student.clip.state_dict().items()}
        checkpoint.save(run.folder / "best", step, tensors, {run.config.eval.metric: score}, keep=1)


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


class Stop:
    """SIGTERM and SIGINT ask for a stop after the current step; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number = 0
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._ask)

    @property
    def asked(self) -> bool:
        return self.number != 0

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise SystemExit(128 + number)
        self.number = number
