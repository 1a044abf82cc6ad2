"""DC-CLIP as we read it: SmoothL1 on the last levels, whatever the two grids, then contrast alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import toy
from cmapkd.config.schedules import resolve_schedule
from cmapkd.core.types import LogitScale, Pair, StudentOutputs, TeacherOutputs, Tokens
from cmapkd.methods import METHODS
from cmapkd.train.schedule import stage_at


def draw(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss(levels: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    final = Pair(torch.ones(2, 3), torch.ones(2, 3))
    mine, theirs = ({name: Tokens(values) for name, values in side.items()} for side in (levels, targets))
    student, teacher = StudentOutputs(final, final, mine), TeacherOutputs(final, LogitScale(1.0), theirs)
    view = toy.view(student, torch.tensor(1.0), torch.eye(2) > 0, teacher, levels=tuple(levels))
    return toy.term("dcclip_feat")(view)


def test_on_equal_grids_it_is_smooth_l1_of_both_towers() -> None:
    mine, theirs = {"P5": draw(0, 2, 6, 4), "L4": draw(1, 2, 1, 4)}, {"P5": draw(2, 2, 6, 4), "L4": draw(3, 2, 1, 4)}
    slow = 0.0
    for name in mine:
        d = (mine[name] - theirs[name]).abs().flatten()
        slow += float(torch.where(d < 1, 0.5 * d * d, d - 0.5).mean())
    assert float(loss(mine, theirs)) == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize(("student", "teacher"), [(4, 2), (2, 4), (3, 2)])
def test_the_finer_grid_is_pooled_and_the_two_extra_tokens_are_compared_as_they_are(student: int, teacher: int) -> None:
    mine, theirs = draw(0, 2, student**2 + 2, 4), draw(1, 2, teacher**2 + 2, 4)

    def pooled(tokens: Tensor, side: int) -> Tensor:
        image = tokens[:, :-2].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        small = F.interpolate(image.repeat_interleave(2, 2).repeat_interleave(2, 3), size=2, mode="area")
        return torch.cat([small.flatten(2).transpose(1, 2), tokens[:, -2:]], 1)

    expected = F.smooth_l1_loss(pooled(mine, student), pooled(theirs, teacher))
    torch.testing.assert_close(loss({"P5": mine}, {"P5": theirs}), expected)


def test_other_levels_play_no_part_and_none_at_all_costs_nothing() -> None:
    assert toy.term("dcclip_feat").active_levels(("P2", "P4", "L1")) == ()
    last = {"L4": draw(0, 2, 1, 4)}, {"L4": draw(1, 2, 1, 4)}
    more = {"P4": draw(2, 2, 4, 4)}, {"P4": draw(3, 2, 4, 4)}
    assert float(loss(last[0] | more[0], last[1] | more[1])) == float(loss(*last))


def test_the_first_stage_has_features_only_and_the_second_contrast_only() -> None:
    stages = resolve_schedule(None, METHODS["dcclip"].stages)
    first, second = stage_at(stages, 0.0), stage_at(stages, 0.6)
    assert (first.factors["align"], first.factors["dcclip_feat"], set(first.levels)) == (0.0, 1.0, {"P5", "L4"})
    assert (second.factors["align"], second.factors["dcclip_feat"], second.levels) == (1.0, 0.0, ())
