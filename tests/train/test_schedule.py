"""The active stage of a schedule at a progress, and the learning rate at a step."""

import pytest

from cmapkd.config.schedules import SCHEDULES
from cmapkd.core.types import LEVELS
from cmapkd.train.schedule import learning_rate, stage_at


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_named_schedule_covers_the_whole_run(name):
    stages = SCHEDULES[name]
    assert [stage_at(stages, x / 100).name for x in (0, 99)] == [stages[0].name, stages[-1].name]


def test_coarse_to_fine_adds_shallow_levels_and_fine_to_coarse_drops_them():
    coarse, fine = SCHEDULES["coarse_to_fine"], SCHEDULES["fine_to_coarse"]
    assert set(stage_at(coarse, 0.0).levels) == {"P5", "L4"} and set(stage_at(coarse, 0.9).levels) == set(LEVELS)
    assert set(stage_at(fine, 0.0).levels) == set(LEVELS) and set(stage_at(fine, 0.9).levels) == {"P5", "L4"}


def test_annealing_fades_the_pyramid_and_never_the_final_terms():
    stages = SCHEDULES["all_then_anneal"]
    factors = [stage_at(stages, x).factors for x in (0.2, 0.5, 0.75, 0.999)]
    assert [round(f["intra_v"], 2) for f in factors] == [1.0, 1.0, 0.5, 0.0]
    assert all(f["fd"] == f["align"] == 1.0 for f in factors)


def test_learning_rate_warms_up_and_ends_near_zero():
    rates = [learning_rate(s, 100, 0.1) for s in range(100)]
    assert rates[0] == 0.1 and max(rates) == 1.0 and rates[-1] < 0.001 and rates[9] == 1.0
