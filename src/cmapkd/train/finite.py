"""Non-finite check of each step: no update from a loss or gradient that is NaN or infinite, and on a GPU no wait for the answer.

On a CPU the answer is at hand before the update. On a GPU the fused optimizer is given the flag on the device and skips the
update itself; the host reads the flag one step later, when it is long there, and before anything is saved.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Refuse = Callable[[], None]


class FiniteCheck:
    """Looks at the total loss and the gradient norm of each step.

    `before_update` comes before optimizer.step, `settle` before anything that saves or scores the weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._pending: tuple[Tensor, torch.cuda.Event, Refuse] | None = None

    def before_update(self, total: Tensor, norm: Tensor, refuse: Refuse) -> None:
        """refuse: raises NonFiniteError; called at once, or one step later where the optimizer skips the update by itself."""
        self.settle()
        good = torch.isfinite(norm) & torch.isfinite(total)
        if not skips_by_itself(self.optimizer):
            if not bool(good):
                refuse()
            return
        bad = (~good).float()
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        told = torch.empty((), pin_memory=True).copy_(bad, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = told, event, refuse

    def settle(self) -> None:
        """Wait for the answer of the last step that was looked at, if it is still open."""
        if self._pending is None:
            return
        told, event, refuse = self._pending
        self._pending = None
        event.synchronize()
        if float(told) > 0:
            refuse()


def skips_by_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer is fused on a GPU, where a flag on the device makes it skip the update."""
    group = optimizer.param_groups[0]
    return bool(group.get("fused")) and group["params"][0].is_cuda
