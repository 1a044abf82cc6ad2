"""Comparison of a student's level with the teacher's: on a grid, at sampled places, word by word, or as one vector.

Each way has `error(student, teacher)`, the squared error of each sample [B]; `power(teacher)`, the error of S = 0; and
`paired(student, teacher)`, the rows that the error subtracts from each other, for least-squares fits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cmapkd.core.types import IMAGE_LEVELS, LEVELS, Tokens
from cmapkd.losses.feature import token_error
from cmapkd.pyramid.grid import GridError, grid_error
from cmapkd.pyramid.levels import Shape
from cmapkd.pyramid.maps import MAPS, split_map
from cmapkd.pyramid.resample import both_axes, sample_at
from cmapkd.pyramid.targets import Targets, stored_side


@runtime_checkable
class Match(Protocol):
    """One way of comparing a level."""

    def error(self, student: Tokens, teacher: Tokens) -> Tensor: ...
    def power(self, teacher: Tokens) -> Tensor: ...
    def paired(self, student: Tokens, teacher: Tokens) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class GridMatch:
    """Maps compared on one grid; the extra tokens of a level count as cells of it."""

    name: str
    grid: GridError

    def error(self, student: Tokens, teacher: Tokens) -> Tensor:
        mine, mine_extra = split_map(self.name, student.values)
        theirs, extra = split_map(self.name, teacher.values)
        error = self.grid(mine, theirs)
        return error if extra is None or mine_extra is None else self._with_extra(error, mine_extra - extra.detach())

    def power(self, teacher: Tokens) -> Tensor:
        cells, extra = split_map(self.name, teacher.values)
        power = self.grid.power(cells)
        return power if extra is None else self._with_extra(power, extra)

    def paired(self, student: Tokens, teacher: Tokens) -> tuple[Tensor, Tensor]:
        mine, mine_extra = split_map(self.name, student.values)
        theirs, extra = split_map(self.name, teacher.values)
        rows = both_axes(self.grid.left, mine).flatten(1, 2), both_axes(self.grid.target, theirs).flatten(1, 2)
        if extra is None or mine_extra is None:
            return rows
        return torch.cat([rows[0], mine_extra], 1), torch.cat([rows[1], extra], 1)

    def _with_extra(self, error: Tensor, extra: Tensor) -> Tensor:
        return (error * self.grid.cells + extra.square().mean(-1).sum(1)) / (self.grid.cells + extra.shape[1])


@dataclass(frozen=True)
class SampledMatch:
    """The student's map read at the places of the teacher's key tokens."""

    def error(self, student: Tokens, teacher: Tokens) -> Tensor:
        return token_error(*self.paired(student, teacher))

    def power(self, teacher: Tokens) -> Tensor:
        return token_error(torch.zeros_like(teacher.values), teacher.values)

    def paired(self, student: Tokens, teacher: Tokens) -> tuple[Tensor, Tensor]:
        assert teacher.places is not None
        return sample_at(student.values, teacher.places, teacher.side), teacher.values


@dataclass(frozen=True)
class WordMatch:
    """Words or phrases, one by one, where both sides have one."""

    def error(self, student: Tokens, teacher: Tokens) -> Tensor:
        return token_error(student.values, teacher.values, _both(student.mask, teacher.mask))

    def power(self, teacher: Tokens) -> Tensor:
        return token_error(torch.zeros_like(teacher.values), teacher.values, teacher.mask)

    def paired(self, student: Tokens, teacher: Tokens) -> tuple[Tensor, Tensor]:
        mask = _both(student.mask, teacher.mask)
        return (student.values, teacher.values) if mask is None else (student.values[mask], teacher.values[mask])


@dataclass(frozen=True)
class VectorMatch:
    """One vector a sample."""

    def error(self, student: Tokens, teacher: Tokens) -> Tensor:
        return token_error(student.values, teacher.values)

    def power(self, teacher: Tokens) -> Tensor:
        return token_error(torch.zeros_like(teacher.values), teacher.values)

    def paired(self, student: Tokens, teacher: Tokens) -> tuple[Tensor, Tensor]:
        return student.values, teacher.values


class LevelErrors(nn.Module):
    """Errors of levels in units of the teacher's own power (FVU, fraction of variance unexplained): S = 0 has 1, S = T has 0.

    unit: per level the teacher's mean power under that level's comparison, measured once on the first training batches.
    """

    unit: Tensor

    def __init__(self, matches: dict[str, Match]) -> None:
        super().__init__()
        self.matches = matches
        self.register_buffer("unit", torch.ones(len(LEVELS)))

    def forward(
        self, student: dict[str, Tokens], teacher: dict[str, Tokens], levels: Iterable[str]
    ) -> dict[str, Tensor]:
        """The error of each of `levels`, [B], float32."""
        return {
            name: self.matches[name].error(student[name], teacher[name]) / self.unit[LEVELS.index(name)]
            for name in levels
        }

    @torch.no_grad()
    def measure_units(self, batches: list[dict[str, Tokens]]) -> None:
        """Set `unit` from the teacher's levels of a few training batches."""
        for name in batches[0]:
            powers = torch.cat([self.matches[name].power(levels[name]) for levels in batches])
            self.unit[LEVELS.index(name)] = powers.mean().clamp_min(1e-6)


def build_matches(
    student: Shape, teacher: Shape, targets: Targets, levels: Collection[str] = LEVELS
) -> dict[str, Match]:
    """The comparison of each of `levels`: P2 at 4×, P3 at 2×, P4 at 1× the side of the student's deepest grid, P5 at its own side.

    Where the teacher's maps are pooled before they are stored, no level is compared finer than that.
    """
    n = student.grids[2]
    sides = (4 * n, 2 * n, n, student.grids[3])
    out: dict[str, Match] = {}
    for name, side, mine, theirs in zip(IMAGE_LEVELS, sides, student.grids, teacher.grids, strict=True):
        kept = stored_side(theirs, targets.grid)
        sampled = targets.tokens is not None and name in MAPS
        out[name] = (
            SampledMatch()
            if sampled
            else GridMatch(name, grid_error(mine, kept, side if kept == theirs else min(side, kept)))
        )
    out |= {"L1": WordMatch(), "L2": WordMatch(), "L3": VectorMatch(), "L4": VectorMatch()}
    return {name: match for name, match in out.items() if name in levels}


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a & b
