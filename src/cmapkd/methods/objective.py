"""Objective: the active terms of a stage, the inputs that they need, their losses on a view, and the weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cmapkd.core.types import (
    IMAGE_LEVELS,
    LEVELS,
    TEXT_LEVELS,
    Inputs,
    LogitScale,
    Needs,
    StudentOutputs,
    TeacherOutputs,
)
from cmapkd.methods.method import Method
from cmapkd.methods.stage import ActiveStage
from cmapkd.methods.term import OF_LEVELS, Input, Term
from cmapkd.methods.view import View
from cmapkd.pyramid.bridge import PairInformation

TASK = "task"  # the term that the user's own task stands for


@dataclass(frozen=True)
class Facts:
    """Facts of the data and the teacher that terms read beside a batch's outputs, each None where there is none.

    pairs: τ and α of the bridge. labels: int64 [samples]. class_texts: the teacher's unit embeddings [C, E].
    """

    pairs: PairInformation | None = None
    labels: Tensor | None = None
    class_texts: Tensor | None = None


def levels_on(levels: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """(bool [4] of the image levels, bool [4] of the text levels) that are on."""
    image, text = (torch.tensor([name in levels for name in names]) for names in (IMAGE_LEVELS, TEXT_LEVELS))
    return image, text


def coupling_of(prior: Tensor, levels: tuple[str, ...], factor: Tensor | None) -> Tensor:
    """α of the level pairs that are on, times the policy's `factor` [B, 4, 4], scaled to the sum 1: [4, 4] or [B, 4, 4]."""
    if factor is None and set(levels) == set(LEVELS):
        return prior
    image, text = levels_on(levels)
    alpha = prior * (image[:, None] & text[None, :]).to(prior, non_blocking=True)
    alpha = alpha if factor is None else alpha * factor
    return alpha / alpha.sum((-2, -1), keepdim=True).clamp_min(1e-9)


class Objective:
    """The terms of a method with their current weights.

    weights: λ of each term; the balance changes them. apart: L_task has batches of its own, and is no term here. always:
    the teacher's embeddings are needed also where no term reads them, since a frozen side of the student is read there.
    """

    def __init__(
        self,
        method: Method,
        terms: Mapping[str, Term],
        weights: dict[str, float],
        facts: Facts | None = None,
        apart: bool = False,
        always: bool = False,
    ) -> None:
        self.method, self.terms, self.weights, self.apart, self.always = method, terms, weights, apart, always
        self.facts = facts or Facts()
        pairs = self.facts.pairs
        self._prior = [] if pairs is None else pairs.alpha.tolist()  # on the CPU, so that no step waits for a device
        self._pairs: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    def active(self, stage: ActiveStage) -> list[str]:
        """The terms that have a weight in this stage and something to compare at its levels."""
        return [name for name, term in self.terms.items() if self.weight(name, stage) > 0 and self._is_on(term, stage)]

    def _is_on(self, term: Term, stage: ActiveStage) -> bool:
        if not term.is_on(stage.levels):
            return False
        if "coupling" not in term.reads or not any(map(any, self._prior)):
            return True
        return bool(self._pairs_on(stage.levels))

    def _pairs_on(self, levels: tuple[str, ...]) -> list[tuple[int, int]]:
        """The level pairs (i, j) that are on and have a prior."""
        image, text = ([k for k, name in enumerate(names) if name in levels] for names in (IMAGE_LEVELS, TEXT_LEVELS))
        return [(i, j) for i in image for j in text if self._prior[i][j] > 0]

    def pairs(self, levels: tuple[str, ...]) -> tuple[Tensor, Tensor] | None:
        """(i, j) of the level pairs that are on and have a prior, on its device, made once; None without a bridge."""
        if self.facts.pairs is None:
            return None
        if levels not in self._pairs:
            places = (
                torch.tensor(self._pairs_on(levels), dtype=torch.int64).reshape(-1, 2).to(self.facts.pairs.alpha.device)
            )
            self._pairs[levels] = places[:, 0], places[:, 1]
        return self._pairs[levels]

    def needs(self, stage: ActiveStage, policy_reads_bridge: bool = False) -> Needs:
        """The needs of the active terms in this stage; asked once a step."""
        terms = [self.terms[name] for name in self.active(stage)]
        reads = {what for term in terms for what in term.reads}

        def levels(*inputs: Input) -> tuple[str, ...]:
            wanted = {
                name
                for term in terms
                for what in inputs
                if what in term.reads
                for name in OF_LEVELS[what]
                if name in term.levels
            }
            return tuple(name for name in LEVELS if name in wanted and name in stage.levels)

        errors = levels("image_errors", "text_errors")
        tokens, summaries = levels("image_tokens", "text_tokens"), levels("image_summaries", "text_summaries")
        teacher = any(term.reads_teacher() for term in terms)
        return Needs(
            teacher=teacher or self.always,
            levels=tuple(name for name in LEVELS if name in {*errors, *tokens, *summaries}),
            errors=errors,
            tokens=tokens,
            summaries=summaries,
            bridge="bridge" in reads,
            teacher_bridge=teacher and ("bridge" in reads or policy_reads_bridge),
            masked="masked_images" in reads,
            class_prompts="class_prompts" in reads,
            teacher_inputs="teacher_inputs" in reads,
        )

    def coupled(self, stage: ActiveStage) -> PairInformation | None:
        """τ and α of the bridge where an active term reads the coupling of level pairs."""
        return self.facts.pairs if any("coupling" in self.terms[name].reads for name in self.active(stage)) else None

    def view(
        self, student: StudentOutputs, similarity: LogitScale, teacher: TeacherOutputs | None, samples: Tensor, stage: ActiveStage,
        coupling: Tensor | None = None, class_prompts: Tensor | None = None, inputs: Inputs | None = None,
    ) -> View:  # fmt: skip
        """The terms' view of a batch. samples: int64 [B] image indices; coupling: the policy's factor on α, [B, 4, 4];
        inputs: the teacher's own.
        """
        pairs, labels = self.facts.pairs, self.facts.labels
        alpha = None if pairs is None else coupling_of(pairs.alpha, stage.levels, coupling)
        return View(
            student, similarity, samples[:, None] == samples[None, :], samples, stage.levels, teacher,
            alpha, None if pairs is None else pairs.temperatures, None if labels is None else labels[samples],
            class_prompts, self.facts.class_texts, inputs, stage.progress, self.pairs(stage.levels),
        )  # fmt: skip

    def losses(self, view: View, stage: ActiveStage) -> dict[str, Tensor]:
        """Raw losses of the active terms, float32 scalars."""
        return {name: self.terms[name](view) for name in self.active(stage)}

    def total(self, losses: dict[str, Tensor], stage: ActiveStage) -> Tensor:
        """L = Σ λ_k · factor_k · L_k."""
        return torch.stack([self.weight(name, stage) * loss for name, loss in losses.items()]).sum()

    def task_weight(self, stage: ActiveStage) -> float:
        """λ7 of the stage where L_task has batches of its own, else 0."""
        return self.weight(TASK, stage) if self.apart else 0.0

    def weight(self, term: str, stage: ActiveStage) -> float:
        return self.weights.get(term, 0.0) * stage.factors.get(term, 1.0)
