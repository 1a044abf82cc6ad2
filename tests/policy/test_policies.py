"""What every policy keeps to, and what each one is for."""

import copy
import math

import pytest
import torch
from scipy import stats

from cmapkd.config.schema import PolicyConfig
from cmapkd.core.types import LEVELS, LogitScale, Pair, TeacherOutputs
from cmapkd.policy import POLICIES, Credit
from cmapkd.policy.adaptive import ROOM, kl_to_uniform
from cmapkd.policy.rl import SPREAD, log_normal

WIDTH, SIZE = 8, 16
ADAPTIVE = ("gating", "routing", "rl")
LEARNING = ("veto", *ADAPTIVE)


def unit(*shape: int, seed: int) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def teaching(seed: int = 0, n: int = SIZE) -> TeacherOutputs:
    final = Pair(unit(n, WIDTH, seed=seed), unit(n, WIDTH, seed=seed + 100))
    bridge = Pair(unit(n, 4, WIDTH, seed=seed + 200), unit(n, 4, WIDTH, seed=seed + 300))
    return TeacherOutputs(final, LogitScale(10.0), bridge=bridge)


def make(name: str, **settings):
    torch.manual_seed(0)
    policy = POLICIES[name](PolicyConfig(name=name, **settings), WIDTH)
    learnt = list(policy.parameters())
    return policy, torch.optim.Adam(learnt, lr=1e-2) if learnt else None


def train(policy, optimizer, credit_of, events: int = 60) -> list[dict]:
    """Credit events at growing progress, each on samples of its own."""
    rows = []
    for k in range(events):
        seen = teaching(1000 + k)
        rows.append(policy.observe(seen, 0.2 + 0.7 * k / events, credit_of(seen, k), optimizer))
    return rows


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", POLICIES)
def test_weights_have_mean_one_per_modality_before_and_after_learning(name):
    policy, optimizer = make(name)
    if policy.learns:
        train(
            policy,
            optimizer,
            lambda seen, k: Credit(noise(SIZE, 8, seed=k) + torch.arange(8.0), noise(SIZE, 4, 4, seed=k)),
            30,
        )
    for seed in range(3):
        weights, coupling = policy(teaching(seed), 0.9)
        if weights is not None:
            torch.testing.assert_close(weights.view(SIZE, 2, 4).mean(-1), torch.ones(SIZE, 2))
            assert float(weights.min()) >= 0
        if coupling is not None:
            torch.testing.assert_close(coupling.mean((1, 2)), torch.ones(SIZE))


@pytest.mark.parametrize("name", LEARNING)
def test_a_policy_is_uniform_until_it_has_learnt(name):
    policy, optimizer = make(name, collect=0.5)
    assert policy(teaching(), 0.9) == (None, None)
    for k in range(5):
        policy.observe(teaching(k), 0.1, Credit(torch.arange(8.0).expand(SIZE, 8) + noise(SIZE, 8, seed=k)), optimizer)
    weights = policy(teaching(), 0.2)[0]
    assert weights is None


@pytest.mark.parametrize("name", LEARNING)
def test_no_policy_gets_a_gradient_from_what_it_weighs(name):
    policy, optimizer = make(name)
    train(policy, optimizer, lambda seen, k: Credit(1 + 0.1 * noise(SIZE, 8, seed=k)), 30)
    weights, _ = policy(teaching(), 0.9)
    assert weights is None or not weights.requires_grad


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_goes_on_bit_for_bit_from_its_state(name):
    def credit(seen, k):
        return Credit(noise(SIZE, 8, seed=k), noise(SIZE, 4, 4, seed=k))

    def go(policy, optimizer, start, end):
        for k in range(start, end):
            if policy.learns:
                policy.observe(teaching(k), 0.5, credit(None, k), optimizer)
            policy(teaching(k), 0.5)

    policy, optimizer = make(name)
    go(policy, optimizer, 0, 4)
    again, other = make(name)
    again.load_state_dict(policy.state_dict())
    if optimizer:
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, o in ((policy, optimizer), (again, other)):
        go(p, o, 4, 8)
    a, b = policy(teaching(9), 0.9), again(teaching(9), 0.9)
    assert all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_manual_weights_are_scaled_within_their_modality():
    policy, _ = make("manual", weights={"P2": 3.0})
    torch.testing.assert_close(policy(teaching(), 0.0)[0][0], torch.tensor([2.0, 2 / 3, 2 / 3, 2 / 3, 1, 1, 1, 1]))


def test_a_level_that_manual_sets_to_zero_is_not_computed():
    policy, _ = make("manual", weights={"P2": 0.0})
    assert policy.awake(LEVELS) == LEVELS[1:]


def test_manual_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="all text levels .L1-L4. are 0; leave one above 0"):
        make("manual", weights=dict.fromkeys(("L1", "L2", "L3", "L4"), 0.0))


def test_random_weights_differ_between_steps_and_samples():
    policy, _ = make("random")
    first, second = policy(teaching(), 0.5)[0], policy(teaching(), 0.5)[0]
    assert not torch.equal(first, second) and float(first.std(0).min()) > 0


@pytest.mark.parametrize("name", ADAPTIVE)
def test_levels_that_help_equally_keep_uniform_weights(name):
    policy, optimizer = make(name)
    train(policy, optimizer, lambda seen, k: Credit(torch.ones(SIZE, 8)))
    torch.testing.assert_close(policy(teaching(), 0.9)[0], torch.ones(SIZE, 8), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_level_that_helps_held_out_data_is_preferred(name):
    def credit(seen, k):
        level = 0.3 * noise(SIZE, 8, seed=k)
        level[:, 1] += 2.0
        level[:, 2] -= 2.0
        return Credit(level)

    policy, optimizer = make(name)
    train(policy, optimizer, credit)
    weights = policy(teaching(), 0.9)[0].mean(0)
    assert weights[1] > 1.3 > 1 > weights[2] and int(weights[:4].argmax()) == 1


@pytest.mark.parametrize("name", ADAPTIVE)
def test_weights_follow_the_sample_where_credit_depends_on_it(name):
    """The failure `constant policy`: the sign of one feature of the image says which of two levels helps."""

    def credit(seen, k):
        side = seen.final.image[:, 0].sign()
        level = 0.2 * noise(SIZE, 8, seed=k)
        level[:, 0] += 2 * side
        level[:, 3] -= 2 * side
        return Credit(level)

    policy, optimizer = make(name)
    train(policy, optimizer, credit, 100)
    new = teaching(5, 256)
    weights = policy(new, 0.9)[0]
    likeness = torch.corrcoef(torch.stack([weights[:, 0] - weights[:, 3], new.final.image[:, 0].sign()]))[0, 1]
    assert float(policy.trust[0]) > 0.2
    assert float(likeness) > 0.6


@pytest.mark.parametrize("name", ADAPTIVE)
def test_reward_that_is_noise_is_not_trusted(name):
    """The failure `reward noise larger than the signal`."""
    policy, optimizer = make(name)
    rows = train(policy, optimizer, lambda seen, k: Credit(noise(SIZE, 8, seed=k) * 10))
    assert rows[-1]["trust"] < 0.1
    assert float((policy(teaching(), 0.9)[0] - 1).abs().max()) < 0.35


def test_weights_are_blind_to_the_scale_of_a_levels_loss():
    def fitted(scale):
        policy, optimizer = make("gating")
        train(policy, optimizer, lambda seen, k: Credit(scale * (noise(SIZE, 8, seed=k) + torch.arange(8.0) / 4)), 20)
        return policy(teaching(), 0.9)[0]

    torch.testing.assert_close(fitted(1.0), fitted(10.0), atol=1e-2, rtol=0)


def test_gating_reaches_the_known_optimum():
    """max_p Σ p A − τ KL(p ‖ uniform) is at p ∝ exp(A / τ); standardised credits of ±1 stay ±1."""
    policy, optimizer = make("gating")
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0] * 2)
    train(policy, optimizer, lambda seen, k: Credit(signs.expand(SIZE, 8)), 150)
    p = signs[:4].softmax(0)
    expected = (4 * ((1 - ROOM) * p + ROOM / 4)).repeat(2).expand(SIZE, 8)
    torch.testing.assert_close(policy(teaching(), 0.9)[0], expected, atol=0.06, rtol=0)


def test_no_weight_can_vanish():
    policy, optimizer = make("gating", entropy=0.01)
    train(policy, optimizer, lambda seen, k: Credit(torch.tensor([-1.0, 1, 1, 1] * 2).expand(SIZE, 8)))
    assert float(policy(teaching(), 0.9)[0].min()) >= ROOM - 1e-6


@pytest.mark.parametrize("name", ("veto", "gating"))
def test_the_pair_that_helps_gets_the_larger_coupling(name):
    def credit(seen, k):
        pairs = 0.2 * noise(SIZE, 4, 4, seed=k) + (1.0 if name == "veto" else 0.0)
        pairs[:, 3, 3] += 2.0
        pairs[:, 0, 1] -= 3.0
        return Credit(torch.ones(SIZE, 8) + 0.1 * noise(SIZE, 8, seed=k), pairs)

    policy, optimizer = make(name)
    train(policy, optimizer, credit, 120)
    coupling = policy(teaching(), 0.9)[1].mean(0)
    assert coupling[3, 3] >= coupling.max() - 1e-6 and coupling[0, 1] <= coupling.min() + 1e-6


def test_reinforce_and_the_path_wise_gradient_agree_in_expectation():
    policy, _ = make("rl")
    advantage = torch.tensor([[1.0, -0.5, 0.3, -1.0]])

    def gradient(gain):
        scores = torch.tensor([[0.4, -0.2, 0.0, 0.1]]).expand(20_000, 4).clone().requires_grad_()
        gain(scores, advantage.expand(20_000, 4)).sum().backward()
        return scores.grad.mean(0)

    torch.testing.assert_close(gradient(policy.gain), gradient(policy.expected), atol=4e-3, rtol=0)


def test_the_log_probability_is_that_of_the_normal():
    u, mean = noise(3, 4, seed=0), noise(3, 4, seed=1)
    wanted = [stats.multivariate_normal(m, SPREAD**2).logpdf(x) for x, m in zip(u.tolist(), mean.tolist(), strict=True)]
    torch.testing.assert_close(log_normal(u, mean), torch.tensor(wanted, dtype=torch.float32))


def test_divergence_from_uniform():
    assert abs(kl_to_uniform(torch.zeros(4)).item()) < 1e-6
    assert abs(kl_to_uniform(torch.tensor([50.0, 0, 0, 0])).item() - math.log(4)) < 1e-4


@pytest.mark.parametrize("credit", ([-1.0, 1, 1, 1], [0.0, 1, 1, 1]), ids=("harmful", "useless"))
def test_a_planted_level_is_vetoed_and_the_others_are_not(credit):
    planted, found = torch.tensor(credit * 2), []
    for repeat in range(5):
        policy, _ = make("veto")
        train(policy, None, lambda seen, k, r=repeat: Credit(planted + 0.5 * noise(1, 8, seed=99 * r + k)), 40)
        found.append(policy(teaching(), 0.9)[0].mean(0).view(2, 4))
    weights = torch.stack(found)
    assert int((weights[..., 0] < 0.4).sum()) >= 8, (
        "a level without effect looks useful in one event of twenty by chance"
    )
    assert float(weights[..., 1:].min()) > 0.9


def test_a_harmful_level_goes_to_sleep_and_wakes_when_it_helps():
    policy, _ = make("veto", probe=5, patience=3)
    harmful = torch.tensor([-1.0, 1, 1, 1, 1, 1, 1, 1])
    train(policy, None, lambda seen, k: Credit(harmful + 0.1 * noise(1, 8, seed=k).expand(SIZE, 8)), 30)
    assert policy.awake(LEVELS) == LEVELS[1:]
    policy.count.fill_(10)
    assert policy.awake(LEVELS, probing=True) == LEVELS, "a probe measures what sleeps"
    train(policy, None, lambda seen, k: Credit(harmful.abs() + 0.1 * noise(1, 8, seed=k).expand(SIZE, 8)), 80)
    assert policy.awake(LEVELS) == LEVELS


@pytest.mark.parametrize("name", LEARNING)
def test_a_price_above_any_reward_puts_every_level_to_sleep(name):
    policy, optimizer = make(name, cost=100.0)
    train(policy, optimizer, lambda seen, k: Credit(1 + 0.3 * noise(SIZE, 8, seed=k)), 30)
    assert policy.awake(LEVELS) == ()


@pytest.mark.parametrize("name", LEARNING)
def test_without_a_price_useful_levels_stay_awake(name):
    policy, optimizer = make(name)
    train(policy, optimizer, lambda seen, k: Credit(1 + 0.3 * noise(SIZE, 8, seed=k)), 30)
    assert policy.awake(LEVELS) == LEVELS


@pytest.mark.parametrize("name", ADAPTIVE)
def test_of_levels_that_help_alike_the_dear_one_gets_less_and_is_trusted_to(name):
    policy, optimizer = make(name, cost=0.5, probe=1000)
    policy.cost.copy_(torch.tensor([3.0, 1, 1, 1, 1, 1, 1, 1]))
    train(policy, optimizer, lambda seen, k: Credit(1 + 0.2 * noise(SIZE, 8, seed=k)), 100)
    weights = policy(teaching(), 0.9)[0].mean(0)
    assert weights[0] < 0.8 and float(weights[1:4].min()) > 1
    assert float(policy.trust[0]) > 0.5, "trust is of the reward less cost, which is what the scores learn"


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_level_that_was_not_measured_is_neither_judged_nor_taken_for_worthless(name):
    def credit(seen, k):
        level = 1 + 0.2 * noise(SIZE, 8, seed=k)
        level[:, 0] = 0 if k >= 40 else level[:, 0]
        return Credit(level)

    policy, optimizer = make(name)
    train(policy, optimizer, credit, 40)
    trust = policy.trust[0].clone()
    train(policy, optimizer, lambda seen, k: credit(seen, 40 + k), 40)
    assert torch.equal(policy.trust[0], trust)
    assert abs(float(policy(teaching(), 0.9)[0][:, 0].mean()) - 1) < 0.2
