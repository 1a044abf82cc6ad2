"""Held-out credit: exact, signed, and immune to the failures of weights that learn from their own loss."""

import pytest
import torch

from cmapkd.config.schema import PolicyConfig
from cmapkd.core.types import Batch, Inputs, LogitScale, Pair, TeacherOutputs
from cmapkd.policy import POLICIES
from cmapkd.policy.credit import PAIRS, measure_credit
from cmapkd.train.policy_step import refuse_shared_samples


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
    credit = measure_credit(module, [module.w], torch.optim.AdamW([module.w]), held, errors)
    direction = 2 * before
    expected = torch.zeros(5, 8, dtype=torch.float64)
    expected[:, 0] = 2 * (x @ before) * (x @ direction)
    expected[:, 7] = torch.cos(x @ before) * (x @ direction)
    torch.testing.assert_close(credit.levels, expected, rtol=1e-5, atol=1e-6)
    assert credit.pairs is None
    assert torch.equal(module.w, before)


def test_pairs_have_credit_of_their_own():
    module = Toy().double()
    errors = lambda: {"P2": module.w[None].sum(1), PAIRS: module.w.sum().expand(2, 4, 4)}  # noqa: E731
    credit = measure_credit(module, [module.w], torch.optim.AdamW([module.w]), lambda: module.w.sum(), errors)
    torch.testing.assert_close(credit.pairs, torch.full((2, 4, 4), 3.0, dtype=torch.float64))


def test_credit_changes_sign_with_the_held_out_loss():
    module = Toy().double()
    errors = lambda: {"P3": module.w[None].sum(1)}  # noqa: E731
    optimizer = torch.optim.AdamW([module.w])
    up = measure_credit(module, [module.w], optimizer, lambda: module.w.sum(), errors).levels
    down = measure_credit(module, [module.w], optimizer, lambda: -module.w.sum(), errors).levels
    torch.testing.assert_close(up, -down)
    assert float(up[0, 1]) > 0


def test_a_reward_on_samples_that_are_trained_on_is_refused():
    nothing = Inputs(*(torch.empty(0),) * 3)

    def batch(*samples):
        rows = torch.tensor(samples)
        return Batch(rows, rows, rows, nothing)

    refuse_shared_samples(batch(1, 2), batch(3, 4))
    with pytest.raises(RuntimeError, match="sample 2 is both trained on and held out"):
        refuse_shared_samples(batch(1, 2), batch(2, 3))


class World(torch.nn.Module):
    """Linear regression with two levels: P2 is quickly learnt and useless, P3 slowly learnt and what held-out data wants.

    θ = (useless, useful) coordinates; ℓ_P2 = ½ (θ_0 − 1)², ℓ_P3 = ½ s (θ_1 − x)² with a small s; held-out: ½ (θ_1 − x)².
    """

    def __init__(self):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.full((2,), 0.1))

    def errors(self, n=16):
        easy, useful = 0.5 * (self.theta[0] - 1).square(), 2.0 + 0.05 * (self.theta[1] - 3).square()
        return {"P2": easy.expand(n), "P3": useful.expand(n)}

    def held_out(self):
        return 0.5 * (self.theta[1] - 3).square()


def self_minimised(world, steps=300):
    """The control: softmax weights that descend the loss they weigh."""
    scores = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*world.parameters(), scores], lr=5e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (scores.softmax(0) * torch.stack([e.mean() for e in world.errors().values()])).sum().backward()
        optimizer.step()
    return scores.softmax(0).detach()


@pytest.mark.parametrize("name", ("gating", "routing", "rl", "veto"))
def test_all_weight_on_the_smallest_loss_happens_to_the_control_and_not_to_us(name):
    assert float(self_minimised(World())[0]) > 0.95, "the control must collapse, or the test shows nothing"
    torch.manual_seed(0)
    world = World()
    policy = POLICIES[name](PolicyConfig(name=name), 4)
    learnt = list(policy.parameters())
    optimizer = torch.optim.Adam(learnt, lr=1e-2) if learnt else None
    student = torch.optim.Adam(world.parameters(), lr=2e-2)
    for event in range(60):
        rows = torch.nn.functional.normalize(torch.randn(16, 4), dim=-1)
        levels = rows[:, None].expand(-1, 4, -1)
        seen = TeacherOutputs(Pair(rows, rows), LogitScale(1.0), bridge=Pair(levels, levels))
        credit = measure_credit(world, list(world.parameters()), student, world.held_out, world.errors)
        assert float(credit.levels[:, 0].abs().max()) < 1e-6 < float(credit.levels[:, 1].min())
        policy.observe(seen, 0.2 + event / 100, credit, optimizer)
        student.zero_grad()
        torch.stack([e.mean() for e in world.errors().values()]).sum().backward()
        student.step()
    weights = policy(seen, 0.9)[0]
    assert float(weights[:, 1].mean()) > float(weights[:, 0].mean())
