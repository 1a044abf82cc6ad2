"""One optimisation step's forward and backward, in one piece or in chunks that keep the contrastive batch whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cmapkd.core.types import Batch, Inputs, Outputs, Teaching
from cmapkd.train.learner import Learner

LossesOf = Callable[[Outputs], tuple[Tensor, dict[str, Tensor]]]


def forward(
    learner: Learner,
    inputs: Inputs,
    levels: tuple[str, ...],
    weights: Tensor | None,
    precision: torch.dtype,
    masked: bool = False,
) -> Outputs:
    """Outputs in float32; the towers run under autocast when precision is bf16."""
    with torch.autocast(inputs.images.device.type, precision, enabled=precision != torch.float32):
        outputs = learner(inputs, levels, weights, masked)
    return map_tensors(outputs, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)


def whole(
    learner: Learner,
    batch: Batch,
    levels: tuple[str, ...],
    weights: Tensor | None,
    losses_of: LossesOf,
    precision: torch.dtype,
    masked: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward and backward of the batch at once."""
    total, losses = losses_of(forward(learner, batch.student, levels, weights, precision, masked))
    total.backward()
    return total.detach(), losses


def chunked(
    learner: Learner,
    batch: Batch,
    levels: tuple[str, ...],
    weights: Tensor | None,
    losses_of: LossesOf,
    precision: torch.dtype,
    chunks: int,
    masked: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same gradients as `whole` at the memory of one chunk (GradCache, arXiv 2101.06983).

    All chunks run without gradient, the loss of the whole batch gives the gradient of every output, and each chunk
    then runs again to carry its share of it into the parameters.
    """
    pieces = torch.arange(len(batch)).chunk(chunks)
    states, parts = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(torch.get_rng_state())
            parts.append(forward(learner, take(batch.student, piece), levels, _rows(weights, piece), precision, masked))
    joined = concatenate(parts)
    leaves = map_tensors(joined, lambda t: t.detach().requires_grad_() if t.is_floating_point() else t)
    total, losses = losses_of(leaves)
    total.backward()
    after = torch.get_rng_state()
    gradients = [leaf.grad for leaf in tensors(leaves)]
    for piece, state in zip(pieces, states, strict=True):
        torch.set_rng_state(state)
        outputs = forward(learner, take(batch.student, piece), levels, _rows(weights, piece), precision, masked)
        pairs = [
            (out, g[piece])
            for out, g in zip(tensors(outputs), gradients, strict=True)
            if g is not None and out.requires_grad
        ]
        torch.autograd.backward([out for out, _ in pairs], [g for _, g in pairs])
    torch.set_rng_state(after)
    return total.detach(), losses


def take(inputs: Inputs, rows: Tensor) -> Inputs:
    return Inputs(inputs.images[rows], inputs.ids[rows], inputs.words[rows])


def slice_batch(batch: Batch, rows: Tensor) -> Batch:
    """The batch's samples at `rows`, teacher inputs included."""
    teacher = None if batch.teacher is None else take(batch.teacher, rows)
    return Batch(batch.samples[rows], batch.captions[rows], batch.views[rows], take(batch.student, rows), teacher)


def slice_teaching(teaching: Teaching | None, rows: Tensor) -> Teaching | None:
    if teaching is None:
        return None
    bridge = teaching.bridge.map(lambda t: t[rows] if t.numel() else t)
    pick = {k: v[rows] for k, v in teaching.levels.items()}
    masks = {k: v[rows] for k, v in teaching.masks.items()}
    places = None if teaching.places is None else teaching.places[rows]
    final, *rest = ((f.map(lambda t: t[rows]), s) for f, s in ((teaching.final, teaching.scale), *teaching.others))
    return Teaching(pick, masks, bridge, *final, places, teaching.side, tuple(rest))


def tensors(outputs: Outputs) -> list[Tensor]:
    """All tensors of Outputs in a fixed order; a tensor that stands twice is listed once."""
    found: list[Tensor] = []
    map_tensors(outputs, lambda tensor: found.append(tensor) or tensor)
    return found


def map_tensors(outputs: Outputs, f: Callable[[Tensor], Tensor]) -> Outputs:
    """f of every tensor; where projected is final itself it stays so, since its gradient must be counted once."""
    shared = outputs.projected is outputs.final
    final = outputs.final.map(f)
    return Outputs(
        final,
        final if shared else outputs.projected.map(f),
        {k: f(v) for k, v in outputs.levels.items()},
        {k: f(v) for k, v in outputs.masks.items()},
        {k: f(v) for k, v in outputs.pooled.items()},
        None if outputs.bridge is None else outputs.bridge.map(f),
        None if outputs.masked is None else f(outputs.masked),
    )


def concatenate(parts: list[Outputs]) -> Outputs:
    columns = list(zip(*(tensors(part) for part in parts), strict=True))
    joined = iter([torch.cat(column) for column in columns])
    return map_tensors(parts[0], lambda _: next(joined))


def _rows(weights: Tensor | None, piece: Tensor) -> Tensor | None:
    return None if weights is None else weights[piece]
