"""Named schedules and lists of stages: errors name the nearest right word."""

import pytest

from cmapkd.config.schedules import SCHEDULES, resolve_schedule, schedule_errors
from cmapkd.config.schema import StageConfig
from cmapkd.core.errors import UsageError


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_named_schedule_keeps_the_rules_of_stages(name):
    assert resolve_schedule(name) == SCHEDULES[name] and not schedule_errors(SCHEDULES[name])


def test_without_a_schedule_the_methods_own_stages_hold_and_without_these_all_levels():
    own = (StageConfig(name="own", until=1.0),)
    assert resolve_schedule(None, own) == own and resolve_schedule(None) == SCHEDULES["all_on"]
    assert resolve_schedule("two_stage", own) == SCHEDULES["two_stage"]


def test_a_stage_that_scales_an_unknown_term_is_told_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'align'"):
        resolve_schedule((StageConfig(name="x", until=1.0, scale={"algn": 1.0}),))


@pytest.mark.parametrize("ends", [(0.5, 0.5), (0.5, 0.9), (0.6, 0.5, 1.0), ()])
def test_stages_must_rise_and_end_at_one(ends):
    with pytest.raises(UsageError, match="must rise strictly and end at 1.0"):
        resolve_schedule(tuple(StageConfig(name="a", until=end) for end in ends))


def test_an_unknown_schedule_is_told_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'coarse_to_fine'"):
        resolve_schedule("coarse_to_fin")
