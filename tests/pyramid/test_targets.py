import pytest
import torch

import toy
from cmapkd.core.errors import UsageError
from cmapkd.core.types import LEVELS, LogitScale, Needs
from cmapkd.pyramid.bridge import pair_information, ridge
from cmapkd.pyramid.targets import Targets, rank_for
from cmapkd.teacher.calibrate import hadamard


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    teacher = toy.tower(tmp_path_factory.mktemp("tok"))
    return teacher, toy.targets(teacher, rank=32)


def test_every_channel_of_a_target_has_unit_variance_on_average(world):
    teacher, targets = world
    rows = torch.cat(
        [targets.level("P3", teacher(toy.inputs(teacher, 32, s)).image.levels[1]).flatten(0, 1) for s in range(4)]
    )
    torch.testing.assert_close(rows.mean(0), torch.zeros(32), atol=1e-4, rtol=0)
    assert abs(rows.square().mean().item() - 1) < 0.01
    assert float(rows.var(0).max() / rows.var(0).min()) < 1.02


def test_hadamard_is_orthonormal():
    matrix = hadamard(16)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16).double())


def test_rank_is_the_one_asked_for_or_the_power_of_two_that_holds_a_narrower_level():
    assert [rank_for(w, 256) for w in (768, 256, 200, 128, 96)] == [256, 256, 256, 128, 128]


def test_scale_of_raw_tokens_leaves_targets_unchanged(world):
    teacher, targets = world
    tokens = teacher(toy.inputs(teacher, 2)).image.levels[0]
    torch.testing.assert_close(targets.level("P2", tokens), targets.level("P2", 3 * tokens + 1), atol=1e-3, rtol=1e-3)


def test_targets_hold_no_learnable_parameter(world):
    assert not list(world[1].parameters())


def test_too_small_a_rank_is_refused_with_a_way_out(world):
    with pytest.raises(UsageError, match="cache.rank is 2, which keeps .* try rank 4"):
        toy.targets(world[0], rank=2)


def test_teaching_is_the_same_from_tensors_that_were_saved(world):
    teacher, targets = world
    again = Targets(targets.tensors(), None)
    features = teacher(toy.inputs(teacher, 3))
    needs = Needs(teacher=True, levels=LEVELS, bridge=True)
    a, b = (t.outputs(features, needs, LogitScale(1.0)) for t in (targets, again))
    for name in LEVELS:
        assert torch.equal(a.levels[name].values, b.levels[name].values)
    assert torch.equal(a.bridge.image, b.bridge.image)


def test_pooling_to_a_grid_keeps_the_two_extra_tokens(world):
    teacher, targets = world
    pooled = Targets(targets.tensors(), 2)
    features = teacher(toy.inputs(teacher, 3))
    assert pooled.level("P2", features.image.levels[0]).shape == (3, 4, 32)
    full, small = targets.level("P5", features.image.levels[3]), pooled.level("P5", features.image.levels[3])
    torch.testing.assert_close(full[:, -2:], small[:, -2:])


def test_ridge_recovers_a_linear_map():
    torch.manual_seed(0)
    x, w = torch.randn(500, 8), torch.randn(8, 3)
    weight, bias = ridge(x, x @ w + 2.0, strength=1e-6)
    torch.testing.assert_close(weight, w, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(bias, torch.full((3,), 2.0), atol=1e-3, rtol=1e-3)


def test_alpha_is_zero_for_pairs_that_know_nothing_and_for_the_final_pair():
    torch.manual_seed(0)
    shared = torch.randn(64, 1, 16)
    image = torch.cat([torch.randn(64, 1, 16), shared, shared, shared], 1)
    text = torch.cat([torch.randn(64, 1, 16), shared, shared, shared], 1)
    found = pair_information(image, text)
    assert float(found.alpha[0].sum()) == 0 and float(found.alpha[:, 0].sum()) == 0 and float(found.alpha[3, 3]) == 0
    assert abs(float(found.alpha.sum()) - 1) < 1e-6
    assert float(found.recall[1, 1]) == 1.0


def test_a_width_that_is_no_power_of_two_is_kept_whole_with_equal_variance_in_every_channel(tmp_path):
    teacher = toy.tower(tmp_path, width=48)
    targets = toy.targets(teacher, rank=64)
    assert rank_for(48, 64) == rank_for(48, 256) == 64 and rank_for(48, 32) == 32 and rank_for(24, 256) == 32
    assert float(targets.get("P3/retained")) == pytest.approx(1.0, abs=1e-6)
    tokens = torch.cat([teacher(toy.inputs(teacher, 32, seed)).image.levels[1] for seed in range(4)])
    found = targets.level("P3", tokens).flatten(0, 1)
    assert found.shape[1] == 64
    torch.testing.assert_close(found.var(0, correction=0), torch.ones(64), rtol=1e-2, atol=1e-2)
