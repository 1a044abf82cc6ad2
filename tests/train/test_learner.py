import pytest
import torch

import toy
from cmapkd.core.types import LEVELS, Outputs, Pair
from cmapkd.methods import METHODS, TERMS, reading, resolve
from cmapkd.teacher.live import LiveTeacher
from cmapkd.towers.dual import evaluating
from cmapkd.train import step as stepping
from cmapkd.train.learner import build_learner
from cmapkd.train.objective import Objective
from cmapkd.train.schedule import SCHEDULES, at, resolve_schedule

PROJECTED = {"fd", "icl", "mfd", "gd"}  # terms on the student's embeddings in the teacher's width
PAIR_METHODS = [m for m in METHODS if not reading("bank", METHODS[m].weights)]  # the others: test_bank_methods.py


class World:
    """A teacher, its targets, a student's learner and an objective of one method."""

    def __init__(self, folder, method="cmapkd", **over):
        self.tower = toy.tower(folder, seed=1, width=48, embedding=24).requires_grad_(False)
        self.targets = toy.targets(self.tower, rank=32)
        self.student = toy.tower(folder, seed=2, width=32, embedding=over.pop("embedding", 24))
        self.method = resolve(method, over, {})
        terms = set(self.method.weights)
        self.distils = bool(reading("teacher", terms))
        shape = self.tower.shape if self.distils else None
        self.learner = build_learner(self.student, shape, self.targets, terms, samples=16, classes=5)
        self.teacher = LiveTeacher(self.tower, self.targets)
        self.objective = Objective(self.learner, self.method, dict(self.method.weights), self.targets.pairs)
        self.batch = toy.batch(self.student, self.tower, 16)
        stages = resolve_schedule(None, self.method)
        starts = [0.0, *(stage.until for stage in stages[:-1])]
        self.moments = [at(stages, start) for start in starts]  # one a stage of the method's own schedule
        self.moment = self.moments[0]

    def losses(self, weights=None, moment=None):
        moment = moment or self.moment
        levels = self.objective.levels(moment)
        teaching = self.teacher.teach(self.batch, levels) if self.distils else None
        masked = self.objective.needs("masked", moment)
        outputs = stepping.forward(self.learner, self.batch.student, levels, weights, torch.float32, masked)
        return self.objective.losses(outputs, teaching, self.batch, moment)

    def total(self, **rest):
        return self.objective.total(self.losses(**rest), rest.get("moment") or self.moment)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.mark.parametrize("method", PAIR_METHODS)
def test_every_method_overfits_one_batch_and_leaves_the_teacher_alone(tmp_path, method):
    world = World(tmp_path, method)
    before = {k: v.clone() for k, v in world.tower.state_dict().items()}
    optimizer = torch.optim.Adam(world.learner.parameters(), lr=1e-3)  # steady for every method
    for moment in world.moments:
        first = world.total(moment=moment).item()
        for _ in range(30):
            optimizer.zero_grad()
            loss = world.total(moment=moment)
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.8 * first
    assert all(torch.equal(v, before[k]) for k, v in world.tower.state_dict().items())


@pytest.mark.parametrize("method", PAIR_METHODS)
def test_every_learnable_parameter_gets_a_gradient(tmp_path, method):
    world = World(tmp_path, method, embedding=16)
    for module in world.learner.modules():  # a zero-initialised adapter passes no gradient on at step 0
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.05)
    if (pairs := world.objective.pairs) is not None:
        pairs.alpha.fill_(1 / 16)  # an untrained teacher's pairs know nothing, and those heads would be left alone
    for moment in world.moments:
        world.total(moment=moment).backward()
    silent = [n for n, p in world.learner.named_parameters() if p.grad is None]
    allowed = {"student.clip.logit_scale"} if "align" not in world.method.weights else set()
    if not set(world.method.weights) & PROJECTED:
        allowed |= {n for n in silent if n.startswith("necks.project")}
    never = set(LEVELS) - {level for moment in world.moments for level in moment.levels}
    allowed |= {n for n in silent if n.startswith(tuple(f"necks.adapters.{level}." for level in never))}
    assert not set(silent) - allowed


def test_the_total_is_the_weighted_sum_of_the_terms(world):
    losses = world.losses()
    assert set(losses) == set(METHODS["cmapkd"].weights)
    expected = sum(world.objective.weights[k] * float(v.detach()) for k, v in losses.items())
    assert abs(float(world.objective.total(losses, world.moment).detach()) - expected) < 1e-4 * abs(expected)


def test_a_term_of_weight_zero_is_not_computed(tmp_path, monkeypatch):
    world = World(tmp_path, pyramid_align=0.0)
    monkeypatch.setitem(TERMS, "pyramid_align", lambda view: pytest.fail("computed"))
    assert "pyramid_align" not in world.losses()


def test_a_level_that_is_off_calls_no_adapter(world):
    moment = at(SCHEDULES["coarse_to_fine"], 0.0)
    called = []
    for name, adapter in world.learner.necks.adapters.items():
        adapter.register_forward_hook(lambda *_, name=name: called.append(name))
    world.losses(moment=moment)
    assert sorted(called) == ["L4", "P5"]


def test_units_make_silence_one_and_imitation_zero(world):
    teachings = [world.teacher.teach(toy.batch(world.student, world.tower, 16, s), LEVELS) for s in range(4)]
    world.learner.measure_units(teachings)
    teaching = teachings[0]

    def outputs(levels):
        final = Pair(torch.ones(16, 24), torch.ones(16, 24))
        return Outputs(final, final, levels, dict(teaching.masks), {}, None)

    silent = world.learner.level_errors(outputs({k: torch.zeros_like(v) for k, v in teaching.levels.items()}), teaching)
    perfect = world.learner.level_errors(outputs(dict(teaching.levels)), teaching)
    opposite = world.learner.level_errors(outputs({k: -v for k, v in teaching.levels.items()}), teaching)
    for name in LEVELS:
        assert 0.6 < float(silent[name].mean()) < 1.5
        assert float(perfect[name].abs().max()) < 1e-5
        torch.testing.assert_close(opposite[name], 4 * silent[name], rtol=1e-4, atol=1e-4)


def test_a_sample_of_weight_zero_sends_no_gradient_to_the_trunk_but_some_to_the_adapter(tmp_path):
    world = World(
        tmp_path, "cmapkd", align=1e-9, logits=0.0, fd=0.0, icl=0.0, pyramid_align=0.0, relation=0.0, layer_relation=0.0
    )
    for adapter in world.learner.necks.adapters.values():
        torch.nn.init.normal_(adapter[1].weight, std=0.05)
    world.total(weights=torch.zeros(16, 8)).backward()
    trunk = world.student.image.native.conv1.weight.grad.abs().max()
    assert float(trunk) < 1e-7
    assert float(world.learner.necks.adapters["P2"][1].weight.grad.abs().max()) > 1e-6


def test_weights_of_one_equal_no_weights(world):
    a, b = world.losses(), world.losses(weights=torch.ones(16, 8))
    for name in a:
        torch.testing.assert_close(a[name], b[name])


def test_chunks_give_the_gradients_of_the_whole_batch(tmp_path):
    world = World(tmp_path, embedding=16)
    for adapter in world.learner.necks.adapters.values():
        torch.nn.init.normal_(adapter[1].weight, std=0.05)
    levels = world.objective.levels(world.moment)
    teaching = world.teacher.teach(world.batch, levels)

    def losses_of(outputs):
        losses = world.objective.losses(outputs, teaching, world.batch, world.moment)
        return world.objective.total(losses, world.moment), losses

    found = []
    for run in (stepping.whole, lambda *a: stepping.chunked(*a, chunks=3)):
        world.learner.zero_grad(set_to_none=True)
        total, _ = run(
            world.learner,
            world.batch,
            levels,
            torch.rand(16, 8, generator=torch.Generator().manual_seed(0)),
            losses_of,
            torch.float32,
        )
        found.append((total, {n: p.grad.clone() for n, p in world.learner.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-5, rtol=1e-3)


def test_permuting_the_batch_leaves_every_term(world):
    rows = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    with evaluating(world.learner):
        a = world.losses()
        world.batch = stepping.slice_batch(world.batch, rows)
        b = world.losses()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-4)
