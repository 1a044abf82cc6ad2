"""What the policy says of a batch, and how it learns: credit of levels and pairs on held-out samples."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from cmapkd.core.log import MetricsLog
from cmapkd.core.tree import move
from cmapkd.core.types import Batch, Teaching
from cmapkd.losses.alignment import pair_divergence
from cmapkd.policy.credit import PAIRS, measure_credit
from cmapkd.train import step as stepping
from cmapkd.train.schedule import Moment, at
from cmapkd.train.state import Run, teach


def awake(run: Run, moment: Moment, probing: bool = False) -> Moment:
    """The moment without the levels that the policy has put to sleep."""
    if moment.policy == "uniform":
        return moment
    return replace(moment, levels=run.policy.awake(moment.levels, probing))


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
    held, batch = (move(b, device) for b in (run.held_out.batch(event), run.loader.batch(step)))
    refuse_shared_samples(held, batch)
    held_teaching, teaching = teach(run, held, moment), teach(run, batch, moment)
    assert teaching is not None and held_teaching is not None
    run.read += teaching.read + held_teaching.read
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
