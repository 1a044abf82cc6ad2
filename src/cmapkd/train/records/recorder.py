"""Recorder: the log of a run while it trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmapkd.core.log import MetricsLog, Progress, say
from cmapkd.core.types import LEVELS
from cmapkd.distributed.collectives import sum_
from cmapkd.distributed.group import world
from cmapkd.losses.both_kinds import chance
from cmapkd.train.records.waiting import Waiting
from cmapkd.train.state import Run
from cmapkd.train.step import StepInputs

LOG_EVERY = 10
STUCK_AFTER, STUCK = 200, 0.98  # steps, share of L_align at chance


def due(step: int, every: int, steps: int) -> bool:
    """True after steps every, 2·every, … and after the last."""
    return (step + 1) % every == 0 or step + 1 == steps


class Recorder:
    """Writes the rows of metrics.jsonl and the progress line.

    log: None in a process that leaves the writing to the first one. read: bytes that the step in hand has read from the store.
    order: fingerprint of its samples. validating: seconds spent on validation. waiting: how long steps wait for their
    batches, `waited` in the rows, as a share of the time since the row before.
    """

    def __init__(self, run: Run, log: MetricsLog | None) -> None:
        self.run, self.log, self.progress = run, log, Progress(run.steps, run.config.run.name)
        self.read, self.order, self.validating, self.warned = 0, 0, 0.0, False
        self.waiting = Waiting()
        self._pending: list[tuple[int, int, dict[str, Tensor], dict[str, float]]] = []

    def write(self, row: dict[str, Any]) -> None:
        """One row, at once."""
        if self.log is not None:
            self.log.write(row)

    def step(
        self, step: int, given: StepInputs, total: Tensor, losses: dict[str, Tensor], norm: Tensor, rate: float
    ) -> None:
        """Keep a step's figures as tensors; they become numbers every few steps, so that no step waits for them."""
        run, weights = self.run, given.weights
        similarity = run.state.learner.student.similarity
        row = {
            "loss": total,
            "grad_norm": norm.detach(),
            "scale": similarity.scale.detach().clone(),
        }
        if similarity.bias is not None:
            row["bias"] = similarity.bias.detach().clone()
        row |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        if weights is not None:
            row |= {f"weight/{name}": weights[:, k].mean() for k, name in enumerate(LEVELS)}
            row |= {f"spread/{name}": weights[:, k].std() for k, name in enumerate(LEVELS)}
        known = {"lr": rate, "levels": float(len(given.needs.levels)), "bytes": float(self.read * world())}
        known["waited"] = self.waiting.share()
        known["stage"] = float([stage.name for stage in run.stages].index(given.stage.name))
        self._pending.append((step, self.order, row, known))
        if due(step, LOG_EVERY, run.steps):
            self.flush()

    def show(self, step: int, stage: str, total: Tensor) -> None:
        """The progress line after a step; the loss is looked at only where the line is printed."""
        waited = self.waiting.recently()
        self.progress.update(step + 1, lambda: f"{stage} loss {float(total):.3f}  waited {waited:.0%}")

    def flush(self) -> None:
        """Write the steps that are kept."""
        rows = []
        orders = torch.tensor([order - 2**64 if order >= 2**63 else order for _, order, _, _ in self._pending])
        sum_([orders])  # fingerprints of all processes' parts
        for (step, _, row, known), order in zip(self._pending, orders.tolist(), strict=True):
            values = torch.stack([value.float() for value in row.values()]).tolist()
            figures = dict(zip(row, values, strict=True)) | known
            rows.append({"kind": "train", "step": step + 1, **figures, "order": f"{order % 2**64:016x}"})
            self.write(rows[-1])
        self._pending.clear()
        self._warn_of_standstill(rows)

    def _warn_of_standstill(self, rows: list[dict[str, Any]]) -> None:
        """Say once, after the warm-up, that L_align is still at chance: ln of the batch size where it is InfoNCE."""
        config, kind = self.run.config.train, self.run.state.learner.student.similarity.kind
        least = STUCK * chance(kind, config.batch)
        stuck = [row["loss/align"] > least for row in rows if "loss/align" in row]
        late = bool(rows) and rows[-1]["step"] > max(STUCK_AFTER, config.warmup * self.run.steps)
        if not self.warned and stuck and all(stuck) and late:
            self.warned = True
            guess = f"ln({config.batch})" if kind == "softmax" else f"{chance(kind, config.batch):.2f} or more"
            say(
                f"warning: L_align is still {guess} after {rows[-1]['step']} steps, which is guessing; are "
                "images and captions paired rightly (cmapkd data inspect), and is train.lr neither too high nor too low?"
            )
