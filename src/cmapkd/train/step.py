"""One step's forward pass: student outputs, their errors against the teacher's, the exchange between processes, the losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cmapkd.core.tree import map_tensors
from cmapkd.core.types import Batch, Inputs, Needs, StudentOutputs, TeacherOutputs
from cmapkd.distributed.collectives import own_rows
from cmapkd.methods.objective import Objective
from cmapkd.methods.stage import ActiveStage
from cmapkd.pyramid.maps import level_vector
from cmapkd.train.exchange import exchange
from cmapkd.train.learner import Learner


@dataclass(frozen=True)
class StepInputs:
    """Everything that one step's forward pass takes.

    batch, teacher: of this process's rows. weights: the policy's level weights [B, 8], None for uniform; coupling: its factor
    on the level pairs, [B, 4, 4]; both for the samples of all processes.
    """

    batch: Batch
    teacher: TeacherOutputs | None
    stage: ActiveStage
    needs: Needs
    weights: Tensor | None = None
    coupling: Tensor | None = None

    @property
    def own_weights(self) -> Tensor | None:
        """The level weights of this process's rows."""
        return None if self.weights is None else own_rows(self.weights)


def forward(
    learner: Learner,
    inputs: Inputs,
    teacher: TeacherOutputs | None,
    needs: Needs,
    weights: Tensor | None,
    precision: torch.dtype,
) -> StudentOutputs:
    """Student outputs in float32 with the errors of their levels; tokens are kept only where a term reads them.

    The towers run under autocast when precision is not float32.
    """
    with torch.autocast(inputs.images.device.type, precision, enabled=precision != torch.float32):
        outputs = learner(inputs, needs, weights, None if teacher is None else teacher.final)
    outputs = map_tensors(outputs, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    errors = learner.errors(outputs.levels, teacher.levels, needs.errors) if teacher is not None else {}
    return replace(outputs, errors=errors, levels={name: outputs.levels[name] for name in needs.tokens})


def teacher_for_terms(teacher: TeacherOutputs, needs: Needs) -> TeacherOutputs:
    """Teacher outputs as terms read them: summaries beside the tokens, and tokens only where a term reads them."""
    summaries = {k: level_vector(k, teacher.levels[k].values, teacher.levels[k].mask) for k in needs.summaries}
    return replace(teacher, summaries=summaries, levels={name: teacher.levels[name] for name in needs.tokens})


def losses_of(
    objective: Objective, learner: Learner, outputs: StudentOutputs, given: StepInputs
) -> tuple[Tensor, dict[str, Tensor]]:
    """(the weighted sum, the raw losses) of a batch, over the rows of all processes."""
    teacher = None if given.teacher is None else teacher_for_terms(given.teacher, given.needs)
    inputs = given.batch.teacher if given.needs.teacher_inputs else None
    outputs, teacher, samples, inputs = exchange((outputs, teacher, given.batch.samples, inputs))
    prompts = learner.class_prompts() if given.needs.class_prompts else None
    similarity = learner.student.similarity.learnt()
    view = objective.view(outputs, similarity, teacher, samples, given.stage, given.coupling, prompts, inputs)
    losses = objective.losses(view, given.stage)
    return (objective.total(losses, given.stage) if losses else learner.errors.unit.new_zeros(())), losses


def backward(
    objective: Objective, learner: Learner, given: StepInputs, precision: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward and backward of the batch at once; gives (the total, the raw losses)."""
    outputs = forward(learner, given.batch.student, given.teacher, given.needs, given.own_weights, precision)
    total, losses = losses_of(objective, learner, outputs, given)
    total.backward()
    return total.detach(), losses
