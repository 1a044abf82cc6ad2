"""The policy in a step: the level weights of a batch, and learning from the credit of levels and pairs on held-out samples."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from cmapkd.core.types import Batch, Pair, TeacherOutputs
from cmapkd.losses.alignment import pair_divergence
from cmapkd.policy.credit import PAIRS, measure_credit
from cmapkd.train.batches import active_stage, inputs_of, on_device
from cmapkd.train.exchange import exchange
from cmapkd.train.optimizer import OF_LOGITS
from cmapkd.train.records.recorder import Recorder
from cmapkd.train.state import Run
from cmapkd.train.step import StepInputs, forward, losses_of


def with_policy(run: Run, given: StepInputs, step: int, recorder: Recorder) -> StepInputs:
    """The step's inputs with the policy's weights and coupling; a policy that learns first looks at the credit when it is due."""
    policy = run.state.policy
    if given.teacher is None or given.stage.policy == "uniform":
        return given
    if policy.learns and (step + 1) % run.config.policy.every == 0:
        improve_policy(run, step, recorder)
    if not given.needs.levels:
        return given
    weights, coupling = policy(seen(given.teacher), given.stage.progress)
    return replace(given, weights=weights, coupling=coupling)


def seen(teacher: TeacherOutputs) -> TeacherOutputs:
    """The teacher's embeddings and bridge of the samples of all processes: what a policy decides on, the same in each."""
    if "text" not in teacher.sides:  # a policy sees zeros in place of texts
        final = Pair(teacher.final.image, torch.zeros_like(teacher.final.image))
        teacher = replace(teacher, final=final)
    return exchange(replace(teacher, levels={}, others=()))


def improve_policy(run: Run, step: int, recorder: Recorder) -> None:
    """One credit event: a training batch against a held-out batch that no gradient of the student ever saw."""
    state, stage = run.state, active_stage(run, step, probing=True)
    if not run.objective.needs(stage).errors:
        return
    assert run.held_out is not None
    event = step // run.config.policy.every
    held_batch, batch = (on_device(run, b) for b in (run.held_out.batch(event), run.loader.batch(step)))
    refuse_shared_samples(held_batch, batch)
    held, given = inputs_of(run, held_batch, stage), inputs_of(run, batch, stage)
    assert given.teacher is not None and held.teacher is not None
    recorder.read += given.teacher.read + held.teacher.read
    encoder = [p for k, p in state.learner.student.named_parameters() if p.requires_grad and not k.endswith(OF_LOGITS)]
    credit = measure_credit(
        state.learner, encoder, state.optimizer, lambda: held_out_loss(run, held), lambda: level_errors(run, given)
    )
    figures = state.policy.observe(seen(given.teacher), stage.progress, credit, state.policy_optimizer)
    recorder.write({"kind": "policy", "step": step + 1, **{k: v for k, v in figures.items() if math.isfinite(v)}})


def held_out_loss(run: Run, held: StepInputs) -> Tensor:
    """The training loss on a held-out batch, with its graph."""
    outputs = forward(run.state.learner, held.batch.student, held.teacher, held.needs, None, run.precision)
    return losses_of(run.objective, run.state.learner, outputs, held)[0]


def level_errors(run: Run, given: StepInputs) -> dict[str, Tensor]:
    """Errors of the levels of a training batch, [B] for the samples of all processes, and [B, 4, 4] of the level pairs where a
    term reads their coupling.
    """
    needs = replace(given.needs, masked=False)
    outputs = forward(run.state.learner, given.batch.student, given.teacher, needs, None, run.precision)
    pairs, teacher = run.objective.coupled(given.stage), given.teacher
    errors, mine, theirs = exchange((outputs.errors, outputs.bridge, None if teacher is None else teacher.bridge))
    if pairs is None or mine is None or theirs is None:
        return errors
    return errors | {PAIRS: pair_divergence(mine.image, mine.text, theirs.image, theirs.text, pairs.temperatures)}


def refuse_shared_samples(held: Batch, batch: Batch) -> None:
    """A reward measured on the student's own training samples rewards memory; such a batch is a bug and stops the run."""
    shared = set(held.samples.tolist()) & set(batch.samples.tolist())
    if shared:
        raise RuntimeError(
            f"policy: sample {min(shared)} is both trained on and held out; the reward would be worthless"
        )
