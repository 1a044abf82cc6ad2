import pytest
import torch

from cmapkd.config.schema import PolicyConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.types import Pair, Teaching
from cmapkd.policy import POLICIES
from cmapkd.policy.gating import ROOM
from cmapkd.train.credit import level_credit


def teaching(n: int = 16, e: int = 8) -> Teaching:
    g = torch.Generator().manual_seed(0)
    final = Pair(*(torch.nn.functional.normalize(torch.randn(n, e, generator=g), dim=-1) for _ in range(2)))
    return Teaching({}, {}, Pair(torch.empty(0), torch.empty(0)), final, 10.0)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_starts_with_mean_weight_one_per_modality(name):
    weights, _ = POLICIES[name](PolicyConfig(name=name), 8)(teaching(), 0.0)
    if weights is not None:
        torch.testing.assert_close(weights.view(16, 2, 4).mean(-1), torch.ones(16, 2))


def test_manual_weights_are_scaled_within_their_modality():
    policy = POLICIES["manual"](PolicyConfig(name="manual", weights={"P2": 3.0}), 8)
    weights, _ = policy(teaching(), 0.0)
    torch.testing.assert_close(weights[0], torch.tensor([2.0, 2 / 3, 2 / 3, 2 / 3, 1, 1, 1, 1]))


def test_manual_weights_that_are_all_zero_are_refused():
    with pytest.raises(UsageError, match="all levels of one modality are 0"):
        POLICIES["manual"](PolicyConfig(name="manual", weights=dict.fromkeys(("L1", "L2", "L3", "L4"), 0.0)), 8)


def fit(credit: torch.Tensor, entropy: float = 1.0, steps: int = 300) -> torch.Tensor:
    torch.manual_seed(0)
    policy, seen = POLICIES["gating"](PolicyConfig(name="gating", entropy=entropy), 8), teaching()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        policy.objective(seen, 0.5, credit).backward()
        optimizer.step()
    return policy(seen, 0.5)[0]


def test_gating_stays_uniform_when_all_levels_help_equally():
    torch.testing.assert_close(fit(torch.ones(16, 8)), torch.ones(16, 8), atol=0.02, rtol=0)


def test_gating_prefers_the_level_that_helps_held_out_data():
    credit = torch.zeros(16, 8)
    credit[:, 1], credit[:, 2] = 1.0, -1.0
    weights = fit(credit).mean(0)
    assert weights[1] > 1.5 > 1 > weights[2] and weights[1:4].argmax() == 0


def test_gating_reaches_the_known_optimum():
    credit = torch.tensor([1.0, -1.0, 1.0, -1.0] * 2).expand(16, 8)
    p = torch.tensor([1.0, -1.0, 1.0, -1.0]).softmax(0)
    expected = (4 * ((1 - ROOM) * p + ROOM / 4)).repeat(2).expand(16, 8)
    torch.testing.assert_close(fit(credit, steps=800), expected, atol=0.02, rtol=0)


def test_gating_is_blind_to_the_scale_of_a_levels_loss():
    credit = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fit(credit, steps=50), fit(10 * credit, steps=50), atol=1e-3, rtol=0)


def test_no_weight_can_vanish():
    credit = torch.zeros(16, 8)
    credit[:, 0] = -1.0
    assert float(fit(credit, entropy=0.01).min()) >= ROOM - 1e-6


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([1.0, -0.5, 2.0]))


def test_credit_is_the_directional_derivative_of_every_sample_and_level():
    module = Toy().double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    held = lambda: (module.w**2).sum()  # noqa: E731
    errors = lambda: {"P2": (x @ module.w) ** 2, "L4": torch.sin(x @ module.w)}  # noqa: E731
    before = module.w.detach().clone()
    credit = level_credit(module, [module.w], torch.optim.AdamW([module.w]), held, errors)
    direction = 2 * before
    expected = torch.zeros(5, 8, dtype=torch.float64)
    expected[:, 0] = 2 * (x @ before) * (x @ direction)
    expected[:, 7] = torch.cos(x @ before) * (x @ direction)
    torch.testing.assert_close(credit, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(module.w, before)


def test_credit_changes_sign_with_the_held_out_loss():
    module = Toy().double()
    errors = lambda: {"P3": module.w[None].sum(1)}  # noqa: E731
    optimizer = torch.optim.AdamW([module.w])
    up = level_credit(module, [module.w], optimizer, lambda: module.w.sum(), errors)
    down = level_credit(module, [module.w], optimizer, lambda: -module.w.sum(), errors)
    torch.testing.assert_close(up, -down)
    assert float(up[0, 1]) > 0
