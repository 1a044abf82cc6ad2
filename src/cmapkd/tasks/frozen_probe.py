"""Training a head on frozen features: AdamW with a warm-up and a cosine, the same loop for every task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cmapkd.config.suite import HeadData
from cmapkd.core.errors import NonFiniteError, UsageError
from cmapkd.core.log import Progress
from cmapkd.core.order import permute

Head = TypeVar("Head", bound=nn.Module)


@dataclass(frozen=True)
class Fitting:
    """AdamW whose rate rises for `warmup` of the steps to `lr` and falls to 0 as a cosine.

    max_norm: the gradient's norm is clipped to it.
    """

    epochs: float = 10.0
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    max_norm: float = 1.0

    def steps(self, n: int) -> int:
        """Steps of the training on n examples."""
        return max(1, math.ceil(self.epochs * n / self.batch))


def fitting_of(given: HeadData) -> Fitting:
    """The training that the command line or a suite asks for."""
    return Fitting(epochs=given.epochs, batch=given.batch, lr=given.lr)


def train_probe(
    build: Callable[[], Head],
    loss_of: Callable[[Head, int], Tensor],
    steps: int,
    fitting: Fitting,
    seed: int,
    label: str,
) -> tuple[Head, list[float]]:
    """Build a head and train it by the losses of its steps; (head in eval mode, loss of every step).

    Only `seed` decides the initial weights and the dropout; torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = build()
        return head, fit(head, parameter_groups(head), lambda step: loss_of(head, step), steps, fitting, label)


def parameter_groups(head: nn.Module) -> list[dict[str, Any]]:
    """AdamW's groups of a head: vectors and scalars (biases, norms) have no weight decay."""
    flat = [p for p in head.parameters() if p.ndim < 2]
    deep = [p for p in head.parameters() if p.ndim >= 2]
    return [{"params": deep}, {"params": flat, "weight_decay": 0.0}]


def fit(
    head: nn.Module,
    groups: Sequence[dict[str, Any]],
    loss_of: Callable[[int], Tensor],
    steps: int,
    fitting: Fitting,
    label: str,
) -> list[float]:
    """Train the parameters of `groups` and return the loss of every step. The head is left in eval mode.

    Raises NonFiniteError before the step of a loss that is not finite.
    """
    trained = {id(p) for group in groups for p in group["params"]}
    parameters = [p for p in head.parameters() if id(p) in trained]
    optimizer = torch.optim.AdamW(groups, lr=fitting.lr, weight_decay=fitting.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / steps, fitting.warmup))
    progress, losses = Progress(steps, label), []
    head.train()
    for step in range(steps):
        loss = loss_of(step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteError(f"{label}: the loss of step {step} is {value:g}; lower lr {fitting.lr:g}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, fitting.max_norm)
        optimizer.step()
        scheduler.step()
        losses.append(value)
        progress.update(step + 1, f"loss {value:.3f}")
    progress.close()
    head.eval()
    return losses


def rate(done: float, warmup: float) -> float:
    """Share of the peak rate: linear warm-up from 0, then a cosine down to 0."""
    if done < warmup:
        return max(done / warmup, 1e-3)
    return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def drawn(step: int, batch: int, n: int, seed: int) -> Tensor:
    """int64 [b] positions of a step's batch: each epoch is a new order of all n; a batch may span two epochs."""
    slots = np.arange(step * batch, (step + 1) * batch)
    out = np.empty_like(slots)
    for epoch in np.unique(slots // n):
        inside = slots // n == epoch
        out[inside] = permute(slots[inside] % n, n, seed, int(epoch))
    return torch.from_numpy(out)


def require_positive(task: str, fitting: Fitting) -> None:
    """Raise UsageError for settings that cannot train."""
    if fitting.epochs <= 0 or fitting.batch < 1 or not 0 <= fitting.warmup < 1:
        raise UsageError(
            f"{task}: epochs {fitting.epochs:g} and batch {fitting.batch} must be positive, "
            f"warmup {fitting.warmup:g} a share below 1"
        )
