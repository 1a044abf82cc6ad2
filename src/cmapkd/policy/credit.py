"""Credit of a step on level k (or pair i, j) of sample b: by how much it lowers the loss on held-out pairs, for all at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cmapkd.core.types import LEVELS
from cmapkd.distributed.collectives import average_
from cmapkd.policy import Credit
from cmapkd.towers.dual import evaluating

RELATIVE_STEP = 1e-3
PAIRS = "pairs"


def measure_credit(
    module: nn.Module,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    held_out_loss: Callable[[], Tensor],
    errors: Callable[[], dict[str, Tensor]],
) -> Credit:
    """a_k(b) = (ℓ_k(b; θ + εd) − ℓ_k(b; θ − εd)) / 2ε with d = P ∇Φ, Φ the held-out loss, P Adam's metric.

    The central difference of two forwards without gradient; parameters are restored to their very bits. `errors` gives
    ℓ_k [B] by level, and [B, 4, 4] under PAIRS where the pyramid's pairs are measured too; a level that it does not name
    has credit 0.
    """
    with evaluating(module):
        gradients = torch.autograd.grad(held_out_loss(), parameters, allow_unused=True)
        average_(gradient for gradient in gradients if gradient is not None)
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
    found = {k: (upper[k] - lower[k]) / (2 * epsilon) for k in upper}
    zero = torch.zeros_like(next(value for k, value in found.items() if k != PAIRS))
    return Credit(torch.stack([found.get(k, zero) for k in LEVELS], 1), found.get(PAIRS))


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
