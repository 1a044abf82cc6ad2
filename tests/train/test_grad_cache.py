"""Gradients in parts: random numbers of every generator are replayed, and batch norms count each image once."""

import torch
from torch import nn

import toy
from cmapkd.config.schedules import SCHEDULES
from cmapkd.core import generators
from cmapkd.methods import resolve
from cmapkd.train.grad_cache import backward_in_parts, unmoved_statistics
from cmapkd.train.schedule import stage_at
from cmapkd.train.step import backward


def test_the_second_pass_of_a_part_does_not_move_running_statistics():
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(5, 3))
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    rows = torch.randn(5, 3)
    with unmoved_statistics(nn.Sequential(norm)):
        found = norm(rows)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    torch.testing.assert_close(found, (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + norm.eps).sqrt())


def test_batch_norms_of_a_step_in_parts_move_once_a_part(tmp_path):
    student = toy.tower(tmp_path, seed=2)
    student.image.native.ln_post = nn.Sequential(student.image.native.ln_post, Counted(32))
    method = resolve("scratch", {}, {})
    learner = toy.learner(method.weights, student).train()
    objective = toy.objective(learner, method)
    given = toy.given(objective, toy.batch(student, student, 6), stage_at(SCHEDULES["all_on"], 0.0))
    backward_in_parts(objective, learner, given, torch.float32, 3)
    norm = student.image.native.ln_post[1]
    assert int(norm.num_batches_tracked) == 3 and norm.calls == 6


class Counted(nn.BatchNorm1d):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x.flatten(0, -2)).view_as(x)


def test_every_generator_is_replayed_in_the_second_pass(tmp_path, monkeypatch):
    student = toy.tower(tmp_path, seed=2)
    method = resolve("scratch", {}, {})
    learner = toy.learner(method.weights, student).train()
    objective = toy.objective(learner, method)
    given = toy.given(objective, toy.batch(student, student, 6), stage_at(SCHEDULES["all_on"], 0.0))
    kept, put = [], []
    real = generators.states
    monkeypatch.setattr(
        generators, "states", lambda: kept.append(real() | {"cuda-0": torch.tensor([len(kept)])}) or kept[-1]
    )
    monkeypatch.setattr(generators, "restore", lambda state: put.append(int(state["cuda-0"])))
    backward_in_parts(objective, learner, given, torch.float32, 2)
    assert put == [0, 1, 2], "the states before each part, in their order, and at last the one after the loss"


def test_dropout_gives_the_gradients_of_the_masks_that_the_loss_saw(tmp_path):
    student = toy.tower(tmp_path, seed=2)
    student.image.native.ln_post = nn.Sequential(student.image.native.ln_post, nn.Dropout(0.5))
    method = resolve("scratch", {}, {})
    learner = toy.learner(method.weights, student).train()
    objective = toy.objective(learner, method)
    given = toy.given(objective, toy.batch(student, student, 6), stage_at(SCHEDULES["all_on"], 0.0))
    found = []
    for run in (lambda *a: backward(*a), lambda *a: backward_in_parts(*a, 1)):
        torch.manual_seed(5)
        learner.zero_grad(set_to_none=True)
        total, _ = run(objective, learner, given, torch.float32)
        found.append((total, student.image.native.conv1.weight.grad.clone(), torch.rand(1)))
    torch.testing.assert_close(found[0], found[1])
