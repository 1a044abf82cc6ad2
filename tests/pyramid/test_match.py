"""Comparison of levels against loops written from the definition, in each of the four ways."""

import pytest
import torch

from cmapkd.core.types import Tokens
from cmapkd.pyramid.grid import grid_error, naive_grid_error
from cmapkd.pyramid.match import GridMatch, LevelErrors, SampledMatch, VectorMatch, WordMatch
from cmapkd.pyramid.resample import sample_at


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_maps_are_compared_on_the_finer_grid():
    student, teacher = Tokens(draw(0, 2, 9, 4)), Tokens(draw(1, 2, 9, 4))
    match = GridMatch("P3", grid_error(3, 3, 6))
    torch.testing.assert_close(
        match.error(student, teacher), naive_grid_error(student.values, teacher.values, 6), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("side", [2, 3])
def test_the_extra_tokens_of_p5_count_as_cells(side):
    student, teacher = Tokens(draw(0, 2, side**2 + 2, 4)), Tokens(draw(1, 2, side**2 + 2, 4))
    match, cells = GridMatch("P5", grid_error(side, side, side)), side**2
    slow = (student.values - teacher.values).square().mean(-1).sum(1) / (cells + 2)
    torch.testing.assert_close(match.error(student, teacher), slow)
    torch.testing.assert_close(match.power(teacher), teacher.values.square().mean(-1).sum(1) / (cells + 2))


def test_words_are_compared_where_both_sides_have_one():
    mine, theirs = (
        torch.tensor([[True, True, False], [True, False, False]]),
        torch.tensor([[True, True, True], [True, True, True]]),
    )
    student, teacher = Tokens(draw(0, 2, 3, 4), mine), Tokens(draw(1, 2, 3, 4), theirs)
    gap = (student.values - teacher.values).square().mean(-1)
    torch.testing.assert_close(WordMatch().error(student, teacher), torch.stack([gap[0, :2].mean(), gap[1, 0]]))
    rows = WordMatch().paired(student, teacher)
    assert rows[0].shape == rows[1].shape == (3, 4)


def test_key_tokens_are_compared_at_their_places():
    places = torch.tensor([[0, 5, 15], [3, 7, 9]])
    student, teacher = Tokens(draw(0, 2, 4, 3)), Tokens(draw(1, 2, 3, 3), None, places, 4)
    expected = (sample_at(student.values, places, 4) - teacher.values).square().mean((1, 2))
    torch.testing.assert_close(SampledMatch().error(student, teacher), expected)


@pytest.mark.parametrize(
    ("match", "shape", "mask", "places"),
    [
        (GridMatch("P4", grid_error(2, 3, 4)), (2, 9, 4), False, False),
        (GridMatch("P5", grid_error(2, 3, 2)), (2, 11, 4), False, False),
        (WordMatch(), (2, 3, 4), True, False),
        (VectorMatch(), (2, 1, 4), False, False),
        (SampledMatch(), (2, 3, 4), False, True),
    ],
    ids=["grid", "grid with extra tokens", "words", "vector", "key tokens"],
)
def test_the_power_is_the_error_of_a_student_that_says_nothing(match, shape, mask, places):
    real = torch.tensor([[True, True, False], [True, True, True]]) if mask else None
    teacher = Tokens(draw(0, *shape), real, torch.tensor([[0, 1, 2], [3, 2, 1]]) if places else None, 2)
    count = {"P4": 4, "P5": 6}.get(getattr(match, "name", ""), 4 if places else shape[1])
    silent = Tokens(torch.zeros(2, count, shape[2]), real)
    torch.testing.assert_close(match.error(silent, teacher), match.power(teacher))


def test_errors_are_in_units_of_the_teachers_power_and_of_the_levels_asked_for():
    errors = LevelErrors({"L3": VectorMatch(), "L4": VectorMatch()})
    teacher = {name: Tokens(3 * draw(k, 5, 1, 4)) for k, name in enumerate(("L3", "L4"))}
    errors.measure_units([teacher])
    silent = {name: Tokens(torch.zeros(5, 1, 4)) for name in teacher}
    found = errors(silent, teacher, ("L4",))
    assert list(found) == ["L4"]
    torch.testing.assert_close(found["L4"].mean(), torch.tensor(1.0))
