"""The coupling of level pairs follows the levels that are on: in every stage, and where a policy puts a level to sleep."""

import pytest
import torch

import toy
from cmapkd.config.schedules import SCHEDULES
from cmapkd.core.types import LEVELS
from cmapkd.methods import resolve
from cmapkd.methods.objective import Facts, Objective, coupling_of
from cmapkd.methods.stage import ActiveStage
from cmapkd.pyramid.bridge import PairInformation
from cmapkd.train.schedule import stage_at

PRIOR = torch.arange(16.0).view(4, 4) / 105
PRIOR[3, 3] = 0.0


def objective(method: str = "cmapkd_full") -> Objective:
    pairs = PairInformation(torch.ones(4, 4), torch.ones(4, 4), torch.ones(4, 4), PRIOR)
    found = resolve(method, {}, {})
    return Objective(found, {name: toy.term(name) for name in found.weights}, dict(found.weights), Facts(pairs))


def stage(*levels: str) -> ActiveStage:
    return ActiveStage("s", levels, {}, 1.0, "uniform", "all")


def test_a_pair_is_off_where_one_of_its_levels_is():
    found = coupling_of(PRIOR, ("P3", "P4", "L1", "L4"), None)
    on = torch.tensor([[False] * 4, [True, False, False, True], [True, False, False, True], [False] * 4])
    assert bool((found[~on] == 0).all())
    torch.testing.assert_close(found[on], PRIOR[on] / PRIOR[on].sum())


def test_with_all_levels_on_it_is_the_prior_and_a_factor_is_normalised():
    assert coupling_of(PRIOR, LEVELS, None) is PRIOR
    factor = torch.rand(5, 4, 4)
    found = coupling_of(PRIOR, LEVELS, factor)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(5))
    torch.testing.assert_close(found[2], PRIOR * factor[2] / (PRIOR * factor[2]).sum())


@pytest.mark.parametrize(
    ("levels", "on"),
    [
        (LEVELS, {"pyramid_align", "layer_relation"}),
        ((), set()),
        (("P2", "P3"), {"layer_relation"}),
        (("L2",), set()),
        (("P5", "L4"), {"layer_relation"}),  # the last pair is taught by the final logits, and its α is 0
        (("P4", "P5", "L3", "L4"), {"pyramid_align", "layer_relation"}),
    ],
)
def test_terms_of_level_pairs_are_off_where_no_pair_is_on(levels, on):
    found = objective()
    assert set(found.active(stage(*levels))) & {"pyramid_align", "layer_relation"} == on
    assert found.needs(stage(*levels)).bridge == bool(on)


def test_final_only_computes_nothing_of_the_pyramid():
    last = stage_at(SCHEDULES["final_only"], 0.5)
    needs = objective().needs(last)
    assert set(objective().active(last)) == {"align", "logits", "fd", "icl"}
    assert needs.teacher and not needs.levels and not needs.bridge and not needs.teacher_bridge
