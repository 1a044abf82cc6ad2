"""Credit: how much a step on level k of sample b lowers the loss on held-out pairs, for all b and k at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cmapkd.core.types import LEVELS
from cmapkd.models.tower import evaluating

RELATIVE_STEP = 1e-3


def level_credit(
    module: nn.Module,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    held_out_loss: Callable[[], Tensor],
    errors: Callable[[], dict[str, Tensor]],
) -> Tensor:
    """a [B, 8]: a_k(b) = (ℓ_k(b; θ + εd) − ℓ_k(b; θ − εd)) / 2ε with d = P ∇Φ, Φ the held-out loss, P Adam's metric.

    The central difference of two forwards without gradient; parameters are restored to their very bits. A level that
    `errors` does not name has credit 0. Positive credit: the level helps.
    """
    with evaluating(module):
        gradients = torch.autograd.grad(held_out_loss(), parameters, allow_unused=True)
        moved: list[Tensor] = list(parameters)
        direction = [_preconditioned(optimizer, p, g) for p, g in zip(parameters, gradients, strict=True)]
        size = torch.stack(torch._foreach_norm(direction)).norm()
        weight = torch.stack(torch._foreach_norm([p.detach() for p in parameters])).norm()
        epsilon = float(RELATIVE_STEP * weight / size.clamp_min(1e-30))
        saved = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            torch._foreach_add_(moved, direction, alpha=epsilon)
            upper = errors()
            torch._foreach_add_(moved, direction, alpha=-2 * epsilon)
            lower = errors()
            for p, value in zip(parameters, saved, strict=True):
                p.copy_(value)
    columns = [(upper[k] - lower[k]) / (2 * epsilon) if k in upper else None for k in LEVELS]
    zero = torch.zeros_like(next(c for c in columns if c is not None))
    return torch.stack([zero if c is None else c for c in columns], 1)


def _preconditioned(optimizer: torch.optim.Optimizer, p: nn.Parameter, gradient: Tensor | None) -> Tensor:
    """P g with P = 1 / (√v̂ + ε) of Adam; a parameter that has not been stepped yet keeps its plain gradient."""
    if gradient is None:
        return torch.zeros_like(p)
    state = optimizer.state.get(p, {})
    if "exp_avg_sq" not in state:
        return gradient
    group = optimizer.param_groups[0]
    corrected = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
    return gradient / (corrected.sqrt() + group["eps"])
