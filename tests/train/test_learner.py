from dataclasses import replace
from functools import partial

import pytest
import torch

import toy
from cmapkd.config.schedules import SCHEDULES, resolve_schedule
from cmapkd.core.tree import rows as rows_of
from cmapkd.core.types import LEVELS, Needs
from cmapkd.methods import METHODS, TERMS, needs_teacher, reading, resolve
from cmapkd.teacher.live import LiveTeacher
from cmapkd.towers.dual import evaluating
from cmapkd.train import step as stepping
from cmapkd.train.grad_cache import backward_in_parts
from cmapkd.train.schedule import stage_at

PROJECTED = {"fd", "icl", "mfd", "gd"}  # terms on the student's embeddings in the teacher's width
PAIR_METHODS = [
    m for m in METHODS if not reading("class_texts", METHODS[m].weights)
]  # the others: test_bank_methods.py


class World:
    """A teacher, its targets, a student's learner and an objective of one method."""

    def __init__(self, folder, method="cmapkd", **over):
        self.tower = toy.tower(folder, seed=1, width=48, embedding=24).requires_grad_(False)
        self.targets = toy.targets(self.tower, rank=32)
        self.student = toy.tower(folder, seed=2, width=32, embedding=over.pop("embedding", 24))
        self.method = resolve(method, over, {})
        tower = self.tower if needs_teacher(self.method.weights) else None
        self.learner = toy.learner(self.method.weights, self.student, tower, self.targets)
        self.teacher = LiveTeacher(self.tower, self.targets)
        self.objective = toy.objective(self.learner, self.method, self.targets.pairs)
        self.batch = toy.batch(self.student, self.tower, 16)
        stages = resolve_schedule(None, self.method.stages)
        starts = [0.0, *(stage.until for stage in stages[:-1])]
        self.moments = [stage_at(stages, start) for start in starts]  # one a stage of the method's own schedule
        self.moment = self.moments[0]

    def losses(self, weights=None, moment=None):
        given = toy.given(self.objective, self.batch, moment or self.moment, self.teacher, weights=weights)
        return toy.losses(self.objective, self.learner, given)

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
    if (pairs := world.objective.facts.pairs) is not None:
        pairs.alpha.fill_(1 / 16)  # an untrained teacher's pairs know nothing, and those heads would be left alone
        world.objective = toy.objective(world.learner, world.method, pairs)
    for moment in world.moments:
        world.total(moment=moment).backward()
    silent = [n for n, p in world.learner.named_parameters() if p.grad is None]
    allowed = {"student.clip.logit_scale"} if "align" not in world.method.weights else set()
    if not set(world.method.weights) & PROJECTED:
        allowed |= {n for n in silent if n.startswith("projectors.project")}
    never = set(LEVELS) - {level for moment in world.moments for level in moment.levels}
    allowed |= {n for n in silent if n.startswith(tuple(f"projectors.adapters.{level}." for level in never))}
    assert not set(silent) - allowed


def test_the_total_is_the_weighted_sum_of_the_terms(world):
    losses = world.losses()
    assert set(losses) == set(METHODS["cmapkd"].weights)
    expected = sum(world.objective.weights[k] * float(v.detach()) for k, v in losses.items())
    assert abs(float(world.objective.total(losses, world.moment).detach()) - expected) < 1e-4 * abs(expected)


def test_a_term_of_weight_zero_is_not_computed(tmp_path, monkeypatch):
    world = World(tmp_path, pyramid_align=0.0)
    monkeypatch.setattr(TERMS["pyramid_align"], "forward", lambda self, view: pytest.fail("computed"))
    assert "pyramid_align" not in world.losses()


def test_a_level_that_is_off_calls_no_adapter(world):
    moment = stage_at(SCHEDULES["coarse_to_fine"], 0.0)
    called = []
    for name, adapter in world.learner.projectors.adapters.items():
        adapter.register_forward_hook(lambda *_, name=name: called.append(name))
    world.losses(moment=moment)
    assert sorted(called) == ["L4", "P5"]


def test_units_make_silence_one_and_imitation_zero(world):
    needs = Needs(teacher=True, levels=LEVELS)
    batches = [toy.batch(world.student, world.tower, 16, seed) for seed in range(4)]
    levels = [world.teacher.outputs(batch, needs).levels for batch in batches]
    world.learner.errors.measure_units(levels)
    teacher = levels[0]

    def errors(scale):
        student = {k: replace(tokens, values=scale * tokens.values) for k, tokens in teacher.items()}
        return world.learner.errors(student, teacher, LEVELS)

    silent, perfect, opposite = (errors(scale) for scale in (0.0, 1.0, -1.0))
    for name in LEVELS:
        assert 0.6 < float(silent[name].mean()) < 1.5
        assert float(perfect[name].abs().max()) < 1e-5
        torch.testing.assert_close(opposite[name], 4 * silent[name], rtol=1e-4, atol=1e-4)


def test_a_sample_of_weight_zero_sends_no_gradient_to_the_trunk_but_some_to_the_adapter(tmp_path):
    world = World(
        tmp_path, "cmapkd", align=1e-9, logits=0.0, fd=0.0, icl=0.0, pyramid_align=0.0, relation=0.0, layer_relation=0.0
    )
    for adapter in world.learner.projectors.adapters.values():
        torch.nn.init.normal_(adapter[1].weight, std=0.05)
    world.total(weights=torch.zeros(16, 8)).backward()
    trunk = world.student.image.native.conv1.weight.grad.abs().max()
    assert float(trunk) < 1e-7
    assert float(world.learner.projectors.adapters["P2"][1].weight.grad.abs().max()) > 1e-6


def test_weights_of_one_equal_no_weights(world):
    a, b = world.losses(), world.losses(weights=torch.ones(16, 8))
    for name in a:
        torch.testing.assert_close(a[name], b[name])


def test_chunks_give_the_gradients_of_the_whole_batch(tmp_path):
    world = World(tmp_path, embedding=16)
    for adapter in world.learner.projectors.adapters.values():
        torch.nn.init.normal_(adapter[1].weight, std=0.05)
    weights = torch.rand(16, 8, generator=torch.Generator().manual_seed(0))
    given = toy.given(world.objective, world.batch, world.moment, world.teacher, weights=weights)
    found = []
    for run in (stepping.backward, partial(backward_in_parts, parts=3)):
        world.learner.zero_grad(set_to_none=True)
        total, _ = run(world.objective, world.learner, given, torch.float32)
        found.append((total, {n: p.grad.clone() for n, p in world.learner.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-5, rtol=1e-3)


def test_permuting_the_batch_leaves_every_term(world):
    rows = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    with evaluating(world.learner):
        a = world.losses()
        world.batch = rows_of(world.batch, rows)
        b = world.losses()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("method", "kept"), [("cmapkd", set()), ("dcclip", {"P5", "L4"})])
def test_tokens_leave_the_forward_pass_only_where_a_term_reads_them(tmp_path, method, kept):
    world = World(tmp_path, method)
    given = toy.given(world.objective, world.batch, world.moment, world.teacher)
    outputs = stepping.forward(world.learner, world.batch.student, given.teacher, given.needs, None, torch.float32)
    assert set(outputs.levels) == kept and set(stepping.teacher_for_terms(given.teacher, given.needs).levels) == kept
    assert set(outputs.errors) == (set(LEVELS) if method == "cmapkd" else set())
