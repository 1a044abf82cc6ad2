"""The training loop: read this file first. One batch goes from disk to weights in the order of the lines of `train`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cmapkd.core.log import MetricsLog, Progress, say
from cmapkd.core.prefetch import ahead
from cmapkd.core.types import Batch, Teaching
from cmapkd.tasks.task_loss import task_loss
from cmapkd.train import step as stepping
from cmapkd.train.decide import awake, decide
from cmapkd.train.lesson import prepare, taught
from cmapkd.train.recorder import due, evaluate, flush, record, refuse_nonfinite, save
from cmapkd.train.schedule import Moment, at, learning_rate
from cmapkd.train.state import Run

BALANCE_CHUNK = 128


def train(run: Run, start: int, log: MetricsLog) -> int:
    """Train from step `start` to the end, or to a signal; returns the step reached, already in a checkpoint."""
    config, progress = run.config, Progress(run.steps, run.config.run.name)
    run.learner.train()
    works = task_batches(run, start)
    with Stop() as stop:
        for step, lesson in run.loader.iterate(start, run.steps, partial(prepare, run)):
            moment = awake(run, at(run.stages, step / run.steps))
            batch, teaching = lesson.batch, taught(run, lesson, moment)
            run.read = 0 if teaching is None else teaching.read
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
            run.learner.student.similarity.clamp_()

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


class Stop:
    """Inside the block SIGTERM and SIGINT ask for a stop after the current step; a second one ends the process at once."""

    def __enter__(self) -> Stop:
        self.number = 0
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        return self.number != 0

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise SystemExit(128 + number)
        self.number = number
