"""GradCache: the gradients of a whole batch at the memory of one part of it (Gao et al. 2021, arXiv 2101.06983)."""

from __future__ import annotations

import torch
from torch import Tensor

from cmapkd.core.tree import join, map_tensors, rows, tensors
from cmapkd.core.types import StudentOutputs
from cmapkd.methods.objective import Objective
from cmapkd.train.learner import Learner
from cmapkd.train.step import StepInputs, forward, losses_of


def backward_in_parts(
    objective: Objective, learner: Learner, given: StepInputs, precision: torch.dtype, parts: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same gradients as `backward` of the whole batch.

    All parts run without gradient, the loss of the whole batch gives the gradient of every output, and each part
    then runs again, on the same random numbers, to carry its share of it into the parameters.
    """
    pieces = torch.arange(len(given.batch)).chunk(parts)

    def run(piece: Tensor) -> StudentOutputs:
        inputs, teacher, weights = rows((given.batch.student, given.teacher, given.weights), piece)
        return forward(learner, inputs, teacher, given.needs, weights, precision)

    states, done = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(torch.get_rng_state())
            done.append(run(piece))
    leaves = map_tensors(join(done), lambda t: t.detach().requires_grad_() if t.is_floating_point() else t)
    total, losses = losses_of(objective, learner, leaves, given)
    total.backward()
    after = torch.get_rng_state()
    gradients = [leaf.grad for leaf in tensors(leaves)]
    for piece, state in zip(pieces, states, strict=True):
        torch.set_rng_state(state)
        pairs = [
            (out, gradient[piece])
            for out, gradient in zip(tensors(run(piece)), gradients, strict=True)
            if gradient is not None and out.requires_grad
        ]
        torch.autograd.backward([out for out, _ in pairs], [gradient for _, gradient in pairs])
    torch.set_rng_state(after)
    return total.detach(), losses
