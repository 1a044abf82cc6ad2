"""Balance: set each pyramid term's λ by its gradient ratio, its gradient's norm on the student's trunk over the final terms'.

The overall strength of the level terms matters several times more than any rule that splits it between levels, and raw
loss values say nothing about it; gradient norms on the trunk do.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cmapkd.distributed.collectives import average_
from cmapkd.methods import FINAL

MEASURES = 4
FIRST, SECOND = 0.03, 0.30
CLAMP = 3.0


class Balance:
    """Measures at two moments (3 % and 30 % of training, a few steps each); the second may move λ by 3× at most."""

    def __init__(self, share: dict[str, float], steps: int) -> None:
        self.share = share
        self.due = [
            {start + k for k in range(MEASURES)} for start in (max(2, round(FIRST * steps)), round(SECOND * steps))
        ]
        self.due[1] -= self.due[0]
        self.norms: dict[str, list[float]] = {}
        self.table: list[dict[str, float | str | int]] = []

    def is_due(self, step: int) -> bool:
        return bool(self.share) and any(step in due for due in self.due)

    def measure(self, losses: dict[str, Tensor], weights: dict[str, float], trunk: Iterable[nn.Parameter]) -> None:
        """Record the trunk-gradient norm of every shared term and of the weighted final terms together.

        Without a final term there is nothing to have a share of, and nothing is recorded.
        """
        parameters = [p for p in trunk if p.requires_grad]
        finals = [weights[t] * loss for t, loss in losses.items() if t in FINAL]
        if not finals:
            return
        final = torch.stack(finals).sum()
        for term, loss in (("final", final), *((t, losses[t]) for t in self.share if t in losses)):
            grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            found = [g for g in grads if g is not None]
            average_(found)
            norms = torch._foreach_norm(found)
            self.norms.setdefault(term, []).append(float(torch.stack(norms).norm()) if norms else 0.0)

    def settle(self, step: int, weights: dict[str, float]) -> list[dict[str, float | str | int]]:
        """After the last measure of a moment: λ = share · ‖g_final‖ / ‖g_term‖; gives the rows that say which λ was set."""
        moment = next((k for k, due in enumerate(self.due) if due and step == max(due)), None)
        if moment is None or "final" not in self.norms:
            return []
        mean = {term: sum(norms) / len(norms) for term, norms in self.norms.items()}
        rows: list[dict[str, float | str | int]] = []
        for term, share in self.share.items():
            if mean.get(term, 0.0) <= 0.0:
                continue
            value = share * mean["final"] / mean[term]
            if moment == 1:
                value = min(max(value, weights[term] / CLAMP), weights[term] * CLAMP)
            rows.append({"step": step, "term": term, "share": share, "norm": mean[term],
                         "final_norm": mean["final"], "before": weights[term], "weight": value})  # fmt: skip
            weights[term] = value
        self.table += rows
        self.norms = {}
        return rows
