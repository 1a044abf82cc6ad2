"""Learner: everything that is learnt in one module: the student, its projectors, and the terms' own modules."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from cmapkd.core import generators
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS, Features, Inputs, Needs, Pair, StudentOutputs, Tokens
from cmapkd.losses.feature import gate
from cmapkd.methods import TERMS, reading, reads_levels
from cmapkd.methods.term import Term, TermSizes
from cmapkd.pyramid.levels import Shape
from cmapkd.pyramid.maps import normed_vector
from cmapkd.pyramid.match import LevelErrors, build_matches
from cmapkd.pyramid.projectors import Projectors
from cmapkd.pyramid.targets import Targets
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.masking import draw_noise, hide_patches
from cmapkd.train.batch_norm import over_all_processes


class Learner(nn.Module):
    """Student, projectors and terms; forward runs the student.

    projectors: None where no term reads a teacher. prompt_ids: token ids of the class prompts, int64 [C, L]. errors: the comparison of the student's levels with the teacher's.
    head: trained by L_task beside the student where the task has data of its own; nothing here runs it.
    """

    def __init__(
        self, student: DualEncoder, projectors: Projectors | None, errors: LevelErrors, terms: Mapping[str, Term]
    ) -> None:
        super().__init__()
        self.student, self.projectors = student, projectors
        self.terms = nn.ModuleDict(terms)
        self.head: nn.Module | None = None
        self.errors = errors
        self.register_buffer("prompt_ids", None, persistent=False)

    prompt_ids: Tensor

    @property
    def terms_by_name(self) -> dict[str, Term]:
        return dict(self.terms.items())  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        return self.errors.unit.device

    def train(self, mode: bool = True) -> Learner:
        """As any module, but a student without a parameter to train stays in eval mode."""
        super().train(mode)
        if not any(p.requires_grad for p in self.student.parameters()):
            self.student.eval()
        return self

    def forward(
        self, inputs: Inputs, needs: Needs, weights: Tensor | None = None, teacher: Pair[Tensor] | None = None
    ) -> StudentOutputs:
        """Student outputs as far as `needs` says. weights [B, 8] gate each level's gradient into the trunk; None is uniform.

        teacher: its final embeddings, which stand for those of the side that the student keeps of it.
        """
        known = teacher.of(self.student.kept) if teacher is not None and self.student.kept is not None else None
        noise = draw_noise(inputs.images, self.student.image.patch) if needs.masked else None
        with generators.own(), over_all_processes(self.student), ExitStack() as contexts:
            for term in self.terms_by_name.values():
                contexts.enter_context(term.around(self.student))
            return self._outputs(inputs, needs, weights, noise, known)

    def class_prompts(self) -> Tensor:
        """The student's embeddings of the class prompts [C, E_s], float32."""
        return self.student.text.encode(self.prompt_ids).float()

    def _outputs(
        self, inputs: Inputs, needs: Needs, weights: Tensor | None, noise: Tensor | None, known: Tensor | None
    ) -> StudentOutputs:
        masked = None if noise is None else self._masked(inputs.images, noise)
        if self.projectors is None or not (needs.levels or needs.bridge):
            final = self.student.final(inputs, known)
            return StudentOutputs(final, self._projected(final), masked=masked)
        features = self.student(inputs, known)
        final = features.map(lambda f: f.final)
        levels, summaries = self._levels(features, needs, weights)
        bridge = self.projectors.bridge(features) if needs.bridge else None
        return StudentOutputs(final, self._projected(final), levels, {}, summaries, bridge, masked)

    def _levels(
        self, features: Pair[Features], needs: Needs, weights: Tensor | None
    ) -> tuple[dict[str, Tokens], dict[str, Tensor]]:
        """(predictions S_k, native vectors) of the levels that are needed."""
        assert self.projectors is not None
        levels, summaries = {}, {}
        for names, part in ((IMAGE_LEVELS, features.image), (TEXT_LEVELS, features.text)):
            for name, raw, mask in zip(names, part.levels, part.masks, strict=False):
                if name not in needs.levels:
                    continue
                gated = raw if weights is None else gate(raw, weights[:, LEVELS.index(name)])
                levels[name] = Tokens(self.projectors.level(name, gated), mask)
                if name in needs.summaries:
                    summaries[name] = normed_vector(name, raw, mask)
        return levels, summaries

    def _projected(self, final: Pair[Tensor]) -> Pair[Tensor]:
        return final if self.projectors is None else self.projectors.projected(final)

    def _masked(self, images: Tensor, noise: Tensor) -> Tensor:
        hidden = hide_patches(self.student.normalise(images), self.student.image.patch, noise)
        final = self.student.image.encode(hidden)
        return self._projected(Pair(final, final)).image


def build_learner(
    terms: Mapping[str, Term],
    student: DualEncoder,
    teacher: Shape | None = None,
    targets: Targets | None = None,
    levels: tuple[str, ...] = LEVELS,
) -> Learner:
    """The learner of `terms`: adapters for the levels that they read, V2L and L2V heads for the bridge.

    teacher None: a student alone. levels: those that both give.
    """
    if teacher is None:
        return Learner(student, None, LevelErrors({}), terms)
    ranks, matches = {}, {}
    if targets is not None and reads_levels(terms):
        ranks = {name: targets.rank(name) for name in levels}
        matches = build_matches(student.shape, teacher, targets, levels)
    bridge = levels if reading("bridge", terms) else ()
    projectors = Projectors(student.shape, ranks, teacher.embedding, bridge)
    return Learner(student, projectors, LevelErrors(matches), terms)


def build_terms(
    weights: Mapping[str, float], sizes: TermSizes, options: Mapping[str, Mapping[str, float | str]] | None = None
) -> dict[str, Term]:
    """The terms that have a weight, in the order of TERMS; their modules are initialised in the order of `weights`."""
    built = {name: TERMS[name](sizes, (options or {}).get(name)) for name in weights}
    return {name: built[name] for name in TERMS if name in built}
