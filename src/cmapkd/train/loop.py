"""The training loop: read this file first. One batch goes from disk to weights in the order of the lines of `train`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cmapkd.core.errors import NonFiniteError
from cmapkd.core.log import say
from cmapkd.core.prefetch import prefetch
from cmapkd.core.tree import rows
from cmapkd.distributed.collectives import average_
from cmapkd.distributed.group import world
from cmapkd.methods.objective import TASK
from cmapkd.methods.stage import ActiveStage
from cmapkd.tasks.task_loss import task_loss
from cmapkd.train.batches import step_inputs, training_batches
from cmapkd.train.finite import FiniteCheck
from cmapkd.train.grad_cache import backward_in_parts
from cmapkd.train.optimizer import OF_LOGITS
from cmapkd.train.policy_step import with_policy
from cmapkd.train.records.ledgers import join_ledgers
from cmapkd.train.records.recorder import Recorder, due
from cmapkd.train.schedule import learning_rate, stage_at
from cmapkd.train.state import Run, save_state
from cmapkd.train.step import StepInputs, backward, forward, losses_of
from cmapkd.train.stop import Stop
from cmapkd.train.validation.validate import evaluate

BALANCE_CHUNK = 128


def train(run: Run, start: int, recorder: Recorder) -> None:
    """Train from step `start` to the end, or to a signal; the last step is in a checkpoint either way."""
    state, config = run.state, run.config
    state.learner.train()
    task_batches, finite = open_task_batches(run, start), FiniteCheck(state.optimizer)
    with Stop() as stop:
        for step, prepared in recorder.waiting.on(training_batches(run, start)):
            stop.agree()
            given = step_inputs(run, prepared, step)
            recorder.read = 0 if given.teacher is None else given.teacher.read
            recorder.order = prepared.order
            given = with_policy(run, given, step, recorder)
            task_batch = next(task_batches) if run.objective.task_weight(given.stage) > 0 else None
            if state.balance.is_due(step):
                rebalance(run, given, task_batch, step, recorder)

            total, losses = gradients(run, given, task_batch)
            average_(p.grad for p in state.learner.parameters() if p.grad is not None)
            norm = torch.nn.utils.clip_grad_norm_(trainable(run, given.stage), config.train.clip)
            finite.before_update(total, norm, partial(refuse_nonfinite, run, step, given, total, losses, norm))
            rate = config.train.lr * given.stage.lr * learning_rate(step, run.steps, config.train.warmup)
            for group in state.optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
            state.optimizer.step()
            state.learner.student.similarity.clamp_()
            if state.ema is not None:
                state.ema.update(step)

            recorder.step(step, given, total, losses, norm, rate)
            if due(step, config.train.checkpoint_every, run.steps) or stop.asked:
                finite.settle()
                recorder.flush()
                join_ledgers(run)
                save_state(run, step + 1)
            if config.eval.every and due(step, config.eval.every, run.steps):
                finite.settle()
                evaluate(run, step + 1, recorder)
            recorder.show(step, given.stage.name, total)
            if stop.asked:
                say(f"stopped by signal after step {step + 1}; continue with --resume")
                raise SystemExit(128 + stop.number)
    recorder.progress.close()


def gradients(run: Run, given: StepInputs, task_batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Put the gradients of one step into the parameters; gives (the total, the raw losses)."""
    state, parts = run.state, run.config.train.accumulate
    state.optimizer.zero_grad(set_to_none=True)
    if not run.objective.active(given.stage):
        total, losses = state.learner.errors.unit.new_zeros(()), {}
    elif parts == 1:
        total, losses = backward(run.objective, state.learner, given, run.precision)
    else:
        total, losses = backward_in_parts(run.objective, state.learner, given, run.precision, parts)
    if task_batch is None:
        return total, losses
    weight, losses[TASK] = run.objective.task_weight(given.stage), own_loss(run, task_batch)
    (weight * losses[TASK]).backward()
    return total + weight * losses[TASK].detach(), losses


def open_task_batches(run: Run, start: int) -> Iterator[Any]:
    """L_task's own batches of the steps at which it has a weight, read ahead; no other is read."""
    if run.task is None:
        return iter(())
    steps = range(start, run.steps)
    return prefetch(
        run.task.batch, (s for s in steps if run.objective.task_weight(stage_at(run.stages, s / run.steps)) > 0)
    )


def own_loss(run: Run, task_batch: Any) -> Tensor:
    """L_task on its own batch."""
    assert run.task is not None
    return task_loss(run.task, run.state.learner.student, task_batch, run.precision)


def rebalance(run: Run, given: StepInputs, task_batch: Any, step: int, recorder: Recorder) -> None:
    """Measure trunk-gradient norms on a slice of the batch, and set λ when a moment's measures are complete.

    L_task is a final term also where it has a batch of its own.
    """
    state, count = run.state, len(given.batch) * world()
    slice_ = min(count, max(BALANCE_CHUNK, count // run.config.train.accumulate))
    index = torch.arange(max(1, slice_ // world()))
    batch, teacher = rows((given.batch, given.teacher), index)
    part = StepInputs(batch, teacher, given.stage, given.needs)
    outputs = forward(state.learner, batch.student, teacher, part.needs, None, run.precision)
    _, losses = losses_of(run.objective, state.learner, outputs, part)
    if task_batch is not None:
        losses[TASK] = own_loss(run, task_batch)
    trunk = (p for name, p in state.learner.student.named_parameters() if not name.endswith(OF_LOGITS))
    state.balance.measure(losses, state.weights, trunk)
    for row in state.balance.settle(step, state.weights):
        recorder.write({"kind": "balance", **row})


def trainable(run: Run, stage: ActiveStage) -> list[torch.nn.Parameter]:
    """Parameters with a gradient this step; in a stage that trains adapters only, the student's are dropped."""
    if stage.trainable == "adapters":
        for p in run.state.learner.student.parameters():
            p.grad = None
    return [p for p in run.state.learner.parameters() if p.grad is not None]


def refuse_nonfinite(
    run: Run, step: int, given: StepInputs, total: Tensor, losses: dict[str, Tensor], norm: Tensor
) -> None:
    """Stop before the update; the weights are those of the step before and are saved. Raises NonFiniteError."""
    bad = [name for name, loss in losses.items() if not bool(torch.isfinite(loss.detach()))]
    run.state.optimizer.zero_grad(set_to_none=True)
    save_state(run, step)
    raise NonFiniteError(
        f"step {step}: {'loss ' + ', '.join(bad) if bad else 'gradient norm'} is not finite (total {float(total):.4g}, norm "
        f"{float(norm):.4g}); samples {given.batch.samples[:8].tolist()}…; weights before the step are saved in "
        f"{run.folder / 'checkpoints'}; lower train.lr or use train.precision: fp32, then --resume"
    )
