"""GradCache: the gradients of a whole batch at the memory of one part of it (Gao et al. 2021, arXiv 2101.06983)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from cmapkd.core import generators
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
        inputs, teacher, weights = rows((given.batch.student, given.teacher, given.own_weights), piece)
        if looking_is_free(inputs.ids):  # a part may have shorter texts than the batch
            inputs = replace(inputs, trimmed=False)
        return forward(learner, inputs, teacher, given.needs, weights, precision)

    states, done = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(generators.states())
            done.append(run(piece))
    leaves = map_tensors(join(done), lambda t: t.detach().requires_grad_() if t.is_floating_point() else t)
    total, losses = losses_of(objective, learner, leaves, given)
    total.backward()
    after = generators.states()
    gradients = [leaf.grad for leaf in tensors(leaves)]
    with unmoved_statistics(learner):
        for piece, state in zip(pieces, states, strict=True):
            generators.restore(state)
            pairs = [
                (out, gradient[piece])
                for out, gradient in zip(tensors(run(piece)), gradients, strict=True)
                if gradient is not None and out.requires_grad
            ]
            torch.autograd.backward([out for out, _ in pairs], [gradient for _, gradient in pairs])
    generators.restore(after)
    return total.detach(), losses


def looking_is_free(ids: Tensor) -> bool:
    """Whether the length of the longest text is at hand, as on a CPU, or a number that the host has to wait for."""
    return ids.device.type == "cpu"


@contextmanager
def unmoved_statistics(module: nn.Module) -> Iterator[None]:
    """Inside the block batch norms normalise by the batch as in training, and their running statistics stay as they are.

    A part's second pass has the images of the first; they count once.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    kept = [(m, [buffer.clone() for buffer in m.buffers(recurse=False)]) for m in norms]
    try:
        yield
    finally:
        for norm, buffers in kept:
            for buffer, value in zip(norm.buffers(recurse=False), buffers, strict=True):
                buffer.copy_(value)
