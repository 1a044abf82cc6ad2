"""Objective: which terms are active at a moment, their losses on a batch, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Batch, Outputs, Teaching
from cmapkd.methods import TERMS, reading
from cmapkd.methods.term import Method, Read
from cmapkd.pyramid.bridge import PairInformation
from cmapkd.train.learner import Learner
from cmapkd.train.schedule import Moment


@dataclass
class Objective:
    """weights are the current λ of each term (the balance may change them); pairs holds τ and α of the bridge.

    labels [samples] and class_ids [C, L] (token ids of the class texts) are what labelled data adds; bank [C, E] holds
    the teacher's unit embeddings of the class texts. apart: L_task has batches of its own, and `losses` leaves it out.
    options: the switches that the config sets, by term.
    """

    learner: Learner
    method: Method
    weights: dict[str, float]
    pairs: PairInformation | None
    labels: Tensor | None = None
    class_ids: Tensor | None = None
    bank: Tensor | None = None
    apart: bool = False
    options: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)

    def levels(self, moment: Moment) -> tuple[str, ...]:
        """The levels that some active term reads now; the others are neither computed nor read from the cache."""
        return moment.levels if self.needs("levels", moment) else ()

    def needs(self, what: Read, moment: Moment) -> bool:
        """Whether a term that reads `what` is active."""
        return any(self._weight(term, moment) > 0 for term in reading(what, self.weights))

    def active(self, moment: Moment) -> list[str]:
        """The terms that `losses` computes now."""
        levels = set(self.levels(moment))
        silent = {"task"} if self.apart else set()
        if not levels & set(IMAGE_LEVELS):
            silent.add("intra_v")
        if not levels & set(TEXT_LEVELS):
            silent.add("intra_l")
        if not levels:
            silent.add("relation")
        return [t for t in TERMS if self._weight(t, moment) > 0 and t not in silent]

    def losses(
        self, outputs: Outputs, teaching: Teaching | None, batch: Batch, moment: Moment, coupling: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Raw losses of the active terms, float32."""
        alpha = None if self.pairs is None else self.pairs.alpha
        if alpha is not None and coupling is not None:
            alpha = alpha * coupling / (alpha * coupling).sum((-2, -1), keepdim=True).clamp_min(1e-9)
        view = self.learner.view(
            outputs,
            teaching,
            batch,
            coupling=alpha,
            temperatures=None if self.pairs is None else self.pairs.temperatures,
            labels=None if self.labels is None else self.labels[batch.samples],
            classes=self._classes(moment),
            bank=self.bank,
            progress=moment.progress,
            options=self.options,
        )
        return {term: TERMS[term].loss(view) for term in self.active(moment)}

    def task_weight(self, moment: Moment) -> float:
        """λ7 of the moment where L_task has batches of its own, else 0."""
        return self._weight("task", moment) if self.apart else 0.0

    def total(self, losses: dict[str, Tensor], moment: Moment) -> Tensor:
        """L = Σ λ_k · factor_k · L_k."""
        return torch.stack([self._weight(term, moment) * loss for term, loss in losses.items()]).sum()

    def _classes(self, moment: Moment) -> Tensor | None:
        """The student's embeddings of the class texts, only where L_task is active."""
        if self.class_ids is None or self._weight("task", moment) == 0:
            return None
        return self.learner.student.text.encode(self.class_ids).float()

    def _weight(self, term: str, moment: Moment) -> float:
        return self.weights.get(term, 0.0) * moment.factors.get(term, 1.0)
