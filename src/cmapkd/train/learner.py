"""Learner: everything that is learnt in one module: student and necks. Forward gives Outputs; `view` prepares the terms."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS, Batch, Inputs, Outputs, Pair, Teaching, View
from cmapkd.losses.feature import gate, token_error
from cmapkd.methods import TERMS, reading
from cmapkd.methods.term import Sizes
from cmapkd.pyramid.grid import GridError, grid_error
from cmapkd.pyramid.levels import Shape, mean_tokens
from cmapkd.pyramid.projectors import Necks
from cmapkd.pyramid.resample import sample_at
from cmapkd.pyramid.targets import SPATIAL, Targets, stored_side
from cmapkd.towers.dual import Tower

MASKED = 0.75  # share of an image's patches that MFD hides


class Learner(nn.Module):
    """student, necks and the terms' own parts, and the geometry in which their levels are compared with the teacher's.

    head: what L_task trains beside the student where it has data of its own; nothing here runs it.
    pools: whether a term reads the student's pooled levels; without one they are not computed.
    unit: per level the teacher's mean power under that level's metric, so that S = 0 has error 1 and S = T has 0
    (FVU, fraction of variance unexplained). It is measured once on the first training batches and kept.
    """

    unit: Tensor

    def __init__(
        self,
        student: Tower,
        necks: Necks | None,
        geometry: dict[str, GridError],
        parts: dict[str, nn.Module],
        pools: bool = False,
    ) -> None:
        super().__init__()
        self.student, self.necks, self.geometry, self.pools = student, necks, geometry, pools
        self.parts = nn.ModuleDict(parts)
        self.head: nn.Module | None = None
        self.register_buffer("unit", torch.ones(len(LEVELS)))

    def train(self, mode: bool = True) -> Learner:
        """As any module, but a student without a parameter to train stays in eval mode."""
        super().train(mode)
        if not any(p.requires_grad for p in self.student.parameters()):
            self.student.eval()
        return self

    def forward(
        self, inputs: Inputs, levels: tuple[str, ...] = (), weights: Tensor | None = None, masked: bool = False
    ) -> Outputs:
        """weights [B, 8] gate each level's gradient into the trunk; None is uniform. Levels not named cost nothing.

        masked: the images run a second time with most of each hidden. The student runs in what its terms put around it.
        """
        with ExitStack() as worn:
            for name, part in self.parts.items():
                if (around := TERMS[name].around) is not None:
                    worn.enter_context(around(part, self.student))
            return self._outputs(inputs, levels, weights, masked)

    def _outputs(self, inputs: Inputs, levels: tuple[str, ...], weights: Tensor | None, masked: bool) -> Outputs:
        again = self._masked(inputs.images) if masked else None
        if self.necks is None or not (levels or len(self.necks.v2l)):
            final = self.student.final(inputs)
            projected = final if self.necks is None else self.necks.projected(final)
            return Outputs(final, projected, {}, {}, {}, None, again)
        features = self.student(inputs)
        final = features.map(lambda f: f.final)
        tokens, masks, pooled = {}, {}, {}
        for names, part in ((IMAGE_LEVELS, features.image), (TEXT_LEVELS, features.text)):
            for name, raw, mask in zip(names, part.levels, part.masks, strict=True):
                if name not in levels:
                    continue
                gated = raw if weights is None else gate(raw, weights[:, LEVELS.index(name)])
                tokens[name] = self.necks.level(name, gated)
                if self.pools:
                    pooled[name] = _native(name, raw, mask)
                if mask is not None:
                    masks[name] = mask
        bridge = self.necks.bridge(features) if len(self.necks.v2l) else None
        return Outputs(final, self.necks.projected(final), tokens, masks, pooled, bridge, again)

    def _masked(self, images: Tensor) -> Tensor:
        final = self.student.image.encode(hide_patches(self.student.normalise(images), self.student.image.patch))
        return final if self.necks is None else self.necks.projected(Pair(final, final)).image

    def level_errors(self, outputs: Outputs, teaching: Teaching) -> dict[str, Tensor]:
        """FVU per active level, [B] each, float32."""
        errors = {}
        for name, prediction in outputs.levels.items():
            target, prediction = teaching.levels[name], prediction.float()
            if teaching.places is not None and name in SPATIAL:
                error = token_error(sample_at(prediction, teaching.places, teaching.side), target)
            elif name in self.geometry:
                error = _spatial(self.geometry[name], name, prediction, target)
            else:
                error = token_error(prediction, target, _both(outputs.masks.get(name), teaching.masks.get(name)))
            errors[name] = error / self.unit[LEVELS.index(name)]
        return errors

    @torch.no_grad()
    def measure_units(self, teachings: list[Teaching]) -> None:
        """Set `unit` from the teacher's own power on a few training batches."""
        for name in teachings[0].levels:
            powers = []
            for teaching in teachings:
                target = teaching.levels[name]
                zero = torch.zeros_like(target)
                if name in self.geometry and (teaching.places is None or name not in SPATIAL):
                    geometry = self.geometry[name]
                    powers.append(_spatial(geometry, name, None, target))
                else:
                    powers.append(token_error(zero, target, teaching.masks.get(name)))
            self.unit[LEVELS.index(name)] = torch.cat(powers).mean().clamp_min(1e-6)

    def view(self, outputs: Outputs, teaching: Teaching | None, batch: Batch, **extra: Any) -> View:
        positives = batch.samples[:, None] == batch.samples[None, :]
        errors: Pair[Tensor | None] = Pair(None, None)
        if teaching is not None and outputs.levels:
            by_level = self.level_errors(outputs, teaching)
            errors = Pair(
                *(_stack([by_level[k] for k in names if k in by_level]) for names in (IMAGE_LEVELS, TEXT_LEVELS))
            )
        return View(
            outputs, self.student.similarity.scale, positives, teaching, errors, samples=batch.samples, inputs=batch.teacher,
            parts=dict(self.parts.items()), **extra,
        )  # fmt: skip


def build_geometry(student: Shape, teacher: Shape, grid: int | None) -> dict[str, GridError]:
    """How each image level is compared: P2 at 4×, P3 at 2×, P4 at 1× the student's deepest grid, P5 at its own side.

    With features pooled to `grid` in the cache, no level is compared finer than that.
    """
    n = student.grids[2]
    sides = (4 * n, 2 * n, n, student.grids[3])
    out = {}
    for name, side, n_student, n_teacher in zip(IMAGE_LEVELS, sides, student.grids, teacher.grids, strict=True):
        kept = stored_side(n_teacher, grid)
        out[name] = grid_error(n_student, kept, side if kept == n_teacher else min(side, kept))
    return out


def build_learner(
    student: Tower,
    teacher: Shape | None,
    targets: Targets | None,
    terms: Iterable[str],
    samples: int = 0,
    classes: int = 0,
    tower: Tower | None = None,
) -> Learner:
    """What `terms` need beside the student: adapters for levels, V2L and L2V heads for the bridge, their own parts.

    `teacher` None: a student alone. `samples`, `classes` and the teacher's own `tower` are what some parts need.
    """
    terms = list(terms)
    sizes = Sizes(student.shape, teacher, samples, classes, tower, student)
    parts = {name: build(sizes) for name in terms if (build := TERMS[name].part) is not None}
    if teacher is None:
        return Learner(student, None, {}, parts)
    levels = bool(reading("levels", terms)) and targets is not None
    ranks = {name: targets.rank(name) for name in LEVELS} if levels and targets is not None else {}
    geometry = build_geometry(student.shape, teacher, targets.grid) if levels and targets is not None else {}
    necks = Necks(student.shape, ranks, teacher.embedding, bool(reading("bridge", terms)))
    return Learner(student, necks, geometry, parts, bool(reading("pooled", terms)))


def hide_patches(images: Tensor, patch: int, ratio: float = MASKED) -> Tensor:
    """Normalised images [B, 3, S, S] with a random `ratio` of each one's patch × patch squares set to 0, the mean colour."""
    side = -(-images.shape[-1] // patch)
    noise = torch.rand(len(images), side * side).to(images.device)  # of the generator that checkpoints keep
    hidden = noise.argsort(1).argsort(1) < round(ratio * side * side)
    mask = hidden.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return images.masked_fill(mask[..., : images.shape[-2], : images.shape[-1]], 0.0)


def _spatial(geometry: GridError, name: str, student: Tensor | None, target: Tensor) -> Tensor:
    """The level's error, or the teacher's power when there is no student; P5's two extra tokens count as cells."""
    if name != "P5":
        return geometry.power(target) if student is None else geometry(student, target)
    grid = geometry.power(target[:, :-2]) if student is None else geometry(student[:, :-2], target[:, :-2])
    extra = target[:, -2:] if student is None else student[:, -2:] - target[:, -2:]
    return (grid * geometry.cells + extra.square().mean(-1).sum(1)) / (geometry.cells + 2)


def _native(name: str, tokens: Tensor, mask: Tensor | None) -> Tensor:
    normed = F.layer_norm(tokens, tokens.shape[-1:])
    return normed[:, -2] if name == "P5" else mean_tokens(normed, mask)


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a & b


def _stack(rows: list[Tensor]) -> Tensor | None:
    return torch.stack(rows, 1) if rows else None
