"""The factored grid error against explicitly resampled maps: values, gradients, precision, invariances."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.pyramid.grid import grid_error, naive_grid_error

FINER = [(14, 16, 56), (14, 14, 56), (16, 16, 28), (7, 16, 56), (8, 8, 32)]
POOLED = [(8, 8, 4), (16, 8, 8), (16, 14, 7)]


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def resized(tokens: Tensor, side: int) -> Tensor:
    """[b, d, side, side]: bilinear as F.interpolate when finer, the mean over equal areas when coarser."""
    n = math.isqrt(tokens.shape[1])
    image = tokens.unflatten(1, (n, n)).permute(0, 3, 1, 2)
    if side >= n:
        return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)
    fine = image.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return F.avg_pool2d(fine, n)


def formed(student: Tensor, teacher: Tensor, side: int) -> Tensor:
    return (resized(student, side) - resized(teacher, side)).square().mean((1, 2, 3))


def unreachable(teacher: Tensor, n_student: int, side: int) -> Tensor:
    """c(T): the part of U_t T that no student map of n_student² tokens can produce, as a mean square."""
    columns = F.interpolate(torch.eye(n_student, dtype=torch.float64)[None], size=side, mode="linear")[0].T
    frame = torch.linalg.qr(columns)[0]
    wanted = resized(teacher, side)
    inside = torch.einsum("hn,bdhg,gm->bdnm", frame, wanted, frame)
    return (wanted.square().sum((1, 2, 3)) - inside.square().sum((1, 2, 3))) / (side * side * teacher.shape[-1])


@pytest.mark.parametrize("grids", FINER)
def test_the_factored_error_is_the_upsampled_error_up_to_a_constant_of_the_teacher(grids: tuple[int, int, int]) -> None:
    n_student, n_teacher, side = grids
    student, teacher = draw(0, 3, n_student**2, 5), draw(1, 3, n_teacher**2, 5)
    constant = unreachable(teacher, n_student, side)
    assert constant.min() > -1e-12
    assert (constant.max() < 1e-12) == (n_student == n_teacher)
    error = grid_error(*grids)
    for s in (student, 0.1 * student, torch.zeros_like(student)):
        torch.testing.assert_close(error(s, teacher) + constant, formed(s, teacher, side), rtol=1e-6, atol=0)


@pytest.mark.parametrize("grids", FINER + POOLED)
def test_the_factored_gradient_is_the_gradient_through_the_formed_maps(grids: tuple[int, int, int]) -> None:
    n_student, n_teacher, side = grids
    student, teacher = draw(0, 3, n_student**2, 5).requires_grad_(), draw(1, 3, n_teacher**2, 5)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (fast,) = torch.autograd.grad((weights * grid_error(*grids)(student, teacher)).sum(), student)
    (slow,) = torch.autograd.grad((weights * formed(student, teacher, side)).sum(), student)
    assert (fast - slow).norm() < 1e-6 * slow.norm()


@pytest.mark.parametrize("grids", POOLED)
def test_a_level_no_finer_than_the_student_is_pooled_by_area_without_a_constant(grids: tuple[int, int, int]) -> None:
    student, teacher = draw(0, 3, grids[0] ** 2, 5), draw(1, 3, grids[1] ** 2, 5)
    torch.testing.assert_close(
        grid_error(*grids)(student, teacher), formed(student, teacher, grids[2]), rtol=1e-6, atol=0
    )


def test_a_teacher_map_of_16_meets_a_student_map_of_14_by_the_area_that_cells_share() -> None:
    student, teacher = draw(0, 2, 14 * 14, 3), draw(1, 2, 16 * 16, 3)
    torch.testing.assert_close(
        grid_error(14, 16, 14)(student, teacher), formed(student, teacher, 14), rtol=1e-6, atol=0
    )


def test_the_naive_reference_is_bilinear_sampling_written_as_a_loop() -> None:
    student, teacher, side = draw(0, 1, 9, 2), draw(1, 1, 16, 2), 6

    def sample(tokens: Tensor, row: int, column: int) -> Tensor:
        n = math.isqrt(tokens.shape[1])
        total = torch.zeros(tokens.shape[-1], dtype=torch.float64)
        for i, j, share in ((i, j, a * b) for i, a in corners(row, n).items() for j, b in corners(column, n).items()):
            total = total + share * tokens[0, i * n + j]
        return total

    def corners(at: int, n: int) -> dict[int, float]:
        centre = max((at + 0.5) * n / side - 0.5, 0.0)
        low = math.floor(centre)
        if low + 1 >= n:
            return {n - 1: 1.0}
        return {low: 1 - (centre - low), low + 1: centre - low}

    cells = [(r, c) for r in range(side) for c in range(side)]
    slow = sum((sample(student, r, c) - sample(teacher, r, c)).square().sum() for r, c in cells) / (side * side * 2)
    torch.testing.assert_close(naive_grid_error(student, teacher, side)[0], torch.as_tensor(slow))
    assert not naive_grid_error(student, teacher.requires_grad_(), side).requires_grad


@pytest.mark.parametrize(("n", "side"), [(14, 56), (16, 28), (8, 32), (8, 8), (8, 4)])
def test_equal_silent_and_opposite_students_leave_0_1_and_4_of_the_teachers_power(n: int, side: int) -> None:
    teacher, error = draw(0, 4, n * n, 6), grid_error(n, n, side)
    power = error.power(teacher)
    torch.testing.assert_close(power, resized(teacher, side).square().mean((1, 2, 3)), rtol=1e-6, atol=0)
    assert error(teacher, teacher).abs().max() < 1e-12
    torch.testing.assert_close(error(torch.zeros_like(teacher), teacher) / power, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(error(-teacher, teacher) / power, torch.full((4,), 4.0, dtype=torch.float64))


@pytest.mark.parametrize("grids", [*FINER, *POOLED, (14, 16, 14)])
def test_a_constant_offset_of_d_costs_d_squared_at_any_grid(grids: tuple[int, int, int]) -> None:
    student, teacher = torch.full((2, grids[0] ** 2, 3), 4.0), torch.full((2, grids[1] ** 2, 3), 1.0)
    torch.testing.assert_close(grid_error(*grids)(student, teacher), torch.full((2,), 9.0), rtol=1e-5, atol=0)


def test_no_operator_is_larger_than_the_native_grids() -> None:
    error = grid_error(14, 16, 56)
    assert error.left.shape == (14, 14) and error.target.shape == (14, 16)


def test_a_small_error_on_large_features_keeps_its_digits_in_float32() -> None:
    noise = draw(0, 2, 196, 64, dtype=torch.float32)
    teacher = 50 + 10 * noise
    student = teacher + 0.01 * draw(1, 2, 196, 64, dtype=torch.float32)
    exact = formed(student.double(), teacher.double(), 56).float()
    torch.testing.assert_close(grid_error(14, 14, 56)(student, teacher), exact, rtol=1e-4, atol=0)
    ups, upt = resized(student, 56), resized(teacher, 56)
    expanded = (ups.square().mean((1, 2, 3)) - 2 * (ups * upt).mean((1, 2, 3))) + upt.square().mean((1, 2, 3))
    assert ((expanded - exact) / exact).abs().max() > 0.5, "the case must be one where the three-term form fails"


def test_a_small_error_on_calibrated_targets_is_exact_to_six_digits_in_float32() -> None:
    teacher = draw(0, 2, 196, 64, dtype=torch.float32)
    student = teacher + 0.01 * draw(1, 2, 196, 64, dtype=torch.float32)
    exact = formed(student.double(), teacher.double(), 56).float()
    torch.testing.assert_close(grid_error(14, 14, 56)(student, teacher), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("grids", [(3, 4, 6), (4, 3, 2)])
def test_the_grid_error_passes_gradcheck(grids: tuple[int, int, int]) -> None:
    student, teacher = draw(0, 2, grids[0] ** 2, 2).requires_grad_(), draw(1, 2, grids[1] ** 2, 2)
    assert torch.autograd.gradcheck(lambda s: grid_error(*grids)(s, teacher), student)


@pytest.mark.parametrize("grids", [(4, 5, 8), (4, 4, 2)])
def test_the_teacher_of_the_grid_error_gets_no_gradient(grids: tuple[int, int, int]) -> None:
    student, teacher = draw(0, 2, grids[0] ** 2, 2), draw(1, 2, grids[1] ** 2, 2).requires_grad_()
    assert not grid_error(*grids)(student, teacher).requires_grad


def test_the_grid_error_follows_the_batch_is_blind_to_channel_rotations_and_grows_with_the_square() -> None:
    student, teacher, error = draw(0, 4, 16, 6), draw(1, 4, 25, 6), grid_error(4, 5, 8)
    plain = error(student, teacher)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(error(student[order], teacher[order]), plain[order])
    turn = torch.linalg.qr(draw(2, 6, 6))[0]
    torch.testing.assert_close(error(student @ turn, teacher @ turn), plain)
    torch.testing.assert_close(error(3 * student, 3 * teacher), 9 * plain)
    assert (plain - plain.mean()).abs().min() > 1e-3, "samples must differ for the order to be seen"
