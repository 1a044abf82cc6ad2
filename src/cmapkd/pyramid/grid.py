"""Error of two square maps compared on any grid, at the price of the student's own grid (L_intra_v's mathematics)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cmapkd.losses.feature import SumOfSquares
from cmapkd.pyramid.resample import both_axes, resize_matrix


@dataclass(frozen=True)
class GridError:
    """‖R_s S R_sᵀ − R_t T R_tᵀ‖² per sample without forming either map.

    With G = R_sᵀR_s, M = R_sᵀR_t, P = G⁻¹M and ΛᵀΛ = G it equals ‖Λ (S − P T Pᵀ) Λᵀ‖² + c(T), c constant in S.
    The factored form keeps its digits in float32 where the expanded three-term form loses them to cancellation.
    A level that is not finer than the student's grid is pooled first: then Λ = R_s, P = R_t with no constant.
    """

    left: Tensor  # [h, n_s], Λ or the pooling matrix of the student
    target: Tensor  # [h, n_t], Λ P or the pooling matrix of the teacher
    cells: int  # H², the number of positions the mean is over
    same: bool = False  # both matrices are 1: maps of one grid are compared on that grid
    _placed: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, student: Float[Tensor, "b n d"], teacher: Float[Tensor, "b m d"]) -> Float[Tensor, " b"]:
        """Mean squared error over the H·H positions and d channels, per sample (without c(T))."""
        if self.left is self.target:  # grids of one side: P = 1, and the difference is mapped once
            difference = student - teacher.detach()
            if not self.same:
                difference = both_axes(self.matrices(student)[0], difference)
        else:
            left, target = self.matrices(student)
            difference = both_axes(left, student) - both_axes(target, teacher.detach())
        return SumOfSquares.apply(difference.flatten(1)) / (self.cells * student.shape[-1])

    def matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(left, target) on the device of `like` in its dtype; copied there once, since a copy would make each step wait."""
        key = like.device, like.dtype
        if key not in self._placed:
            with torch.inference_mode(False):
                self._placed[key] = self.left.to(*key), self.target.to(*key)
        return self._placed[key]

    def power(self, teacher: Float[Tensor, "b m d"]) -> Float[Tensor, " b"]:
        """The error of S = 0: what the teacher's own map weighs under the same metric."""
        return both_axes(self.matrices(teacher)[1], teacher).square().sum((1, 2, 3)) / (self.cells * teacher.shape[-1])


def grid_error(n_student: int, n_teacher: int, side: int) -> GridError:
    """Build the operators for maps of n_student² and n_teacher² tokens compared on a grid of side². Float64 inside."""
    to_student, to_teacher = resize_matrix(n_student, side), resize_matrix(n_teacher, side)
    gram = to_student.T @ to_student
    if n_student == n_teacher:
        left = (to_student if side <= n_student else torch.linalg.cholesky(gram).T).float()
        return GridError(left, left, side * side, same=side == n_student)
    if side <= n_student:
        return GridError(to_student.float(), to_teacher.float(), side * side)
    projection = torch.linalg.solve(gram, to_student.T @ to_teacher)
    root = torch.linalg.cholesky(gram).T
    return GridError(root.float(), (root @ projection).float(), side * side)


def naive_grid_error(
    student: Float[Tensor, "b n d"], teacher: Float[Tensor, "b m d"], side: int
) -> Float[Tensor, " b"]:
    """The reference: both maps formed at side × side by F.interpolate, then the mean squared difference."""

    def upsample(tokens: Tensor) -> Tensor:
        n = round(tokens.shape[1] ** 0.5)
        image = tokens.unflatten(1, (n, n)).permute(0, 3, 1, 2)
        return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)

    return (upsample(student) - upsample(teacher.detach())).square().mean((1, 2, 3))
