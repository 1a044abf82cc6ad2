"""Blocks of the towers: recomputed activations and compiled blocks give the plain step; a failed compilation gives one line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import toy
from cmapkd.config.schedules import SCHEDULES
from cmapkd.config.schema import TowerConfig
from cmapkd.methods import resolve
from cmapkd.teacher.live import LiveTeacher
from cmapkd.towers.load import load_tower
from cmapkd.train.blocks import compile_blocks, recompute_activations, repeated_blocks
from cmapkd.train.schedule import stage_at
from cmapkd.train.step import backward


class World:
    """A step of cmapkd_full on toy towers; `student` is made anew with the same weights each time."""

    def __init__(self, folder):
        self.folder, self.method = folder, resolve("cmapkd_full", {}, {})
        self.teacher_tower = toy.tower(folder, seed=1, width=48, embedding=24).requires_grad_(False)
        self.targets = toy.targets(self.teacher_tower, rank=32)

    def student(self):
        return toy.tower(self.folder, seed=2, width=32, embedding=24)

    def step(self, student) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(3)
        learner = toy.learner(self.method.weights, student, self.teacher_tower, self.targets).train()
        for module in learner.modules():  # zero adapters pass no gradient on
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.05)
        objective = toy.objective(learner, self.method, self.targets.pairs)
        batch = toy.batch(student, self.teacher_tower, 8)
        given = toy.given(
            objective, batch, stage_at(SCHEDULES["all_on"], 0.0), LiveTeacher(self.teacher_tower, self.targets)
        )
        total, _ = backward(objective, learner, given, torch.float32)
        return total, {k: p.grad.clone() for k, p in learner.named_parameters() if p.grad is not None}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()  # graphs belong to code objects, which all blocks of a process share


def saved_bytes(run) -> int:
    """Bytes of all tensors that autograd keeps between the forward and the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(kept.values())


def test_recomputed_activations_give_the_same_loss_and_gradients(world):
    plain, student = world.step(world.student()), world.student()
    names = list(student.state_dict())
    recompute_activations(student)
    assert list(student.state_dict()) == names
    total, gradients = world.step(student)
    assert torch.equal(total, plain[0])
    torch.testing.assert_close(gradients, plain[1], rtol=1e-5, atol=1e-6)


def test_recomputed_activations_keep_less_than_half_of_the_memory_between_the_passes():
    sizes = []
    for recompute in (False, True):
        student = load_tower(TowerConfig(model="cmapkd-small-64"))
        if recompute:
            recompute_activations(student)
        pixels = torch.randn(8, 3, student.size, student.size)
        sizes.append(saved_bytes(lambda student=student, pixels=pixels: student.image.levels(pixels)))
    assert sizes[1] < 0.5 * sizes[0]


def test_blocks_with_batch_norms_are_left_as_they_are(capsys):
    student = load_tower(TowerConfig(model="cmapkd-rn-base-64"))
    convolutional = list(repeated_blocks(student.native.visual))
    assert len(convolutional) >= 8
    recompute_activations(student)
    assert all("forward" not in vars(block) for block in convolutional)
    assert f"{len(convolutional)} blocks have batch norms" in capsys.readouterr().err


def test_compiled_blocks_give_the_loss_and_gradients_of_the_plain_ones_under_the_same_names(world):
    plain, student = world.step(world.student()), world.student()
    names = list(student.state_dict())
    assert compile_blocks(student, torch.float32, backend="aot_eager")
    assert all(block._compiled_call_impl is not None for block in repeated_blocks(student.native))
    assert list(student.state_dict()) == names and all(p.grad is None for p in student.parameters())
    total, gradients = world.step(student)
    torch.testing.assert_close(total, plain[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients, plain[1], rtol=1e-4, atol=1e-5)


def test_a_compilation_that_fails_is_one_line_and_the_step_goes_on_without_it(world, capsys):
    def broken(*_):
        raise RuntimeError("no compiler\nhere")

    plain, student = world.step(world.student()), world.student()
    assert not compile_blocks(student, torch.float32, backend=broken)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("train.compile: cannot compile here (")
    assert torch.equal(world.step(student)[0], plain[0])
