"""Methods that read the teacher's class texts, its inputs, or a frozen student: the contracts, and whole runs."""

import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import toy
import world as scenes
from cmapkd.config.schedules import SCHEDULES
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.types import Needs
from cmapkd.methods import METHODS, reading, resolve, served_term
from cmapkd.teacher.live import LiveTeacher
from cmapkd.towers.load import load_tower
from cmapkd.train import checkpoint
from cmapkd.train import step as stepping
from cmapkd.train.grad_cache import backward_in_parts
from cmapkd.train.runs.distill import distill
from cmapkd.train.schedule import stage_at

CLASS_METHODS = [name for name in METHODS if reading("class_texts", METHODS[name].weights)]
N, CLASSES = 12, 5


class World:
    """A teacher, its class texts, a student's learner and an objective of one method."""

    def __init__(self, folder, method, embedding=16):
        self.tower = toy.tower(folder, seed=1, width=48, embedding=24).requires_grad_(False)
        self.student = toy.tower(folder, seed=2, width=32, embedding=embedding)
        self.method = resolve(method, {}, {})
        self.student.requires_grad_(self.method.student == "trained")
        targets = toy.targets(self.tower, rank=32)
        self.learner = toy.learner(self.method.weights, self.student, self.tower, targets, N, CLASSES).train()
        self.teacher = LiveTeacher(self.tower, targets)
        generator = torch.Generator().manual_seed(0)
        bank = F.normalize(torch.randn(CLASSES, 24, generator=generator), dim=-1)
        labels = torch.randint(CLASSES, (N,), generator=generator)
        self.objective = toy.objective(self.learner, self.method, targets.pairs, labels, bank)
        self.batch = toy.batch(self.student, self.tower, N)
        self.stage = replace(stage_at(SCHEDULES["all_on"], 0.0), progress=0.5)
        self.given = toy.given(self.objective, self.batch, self.stage, self.teacher)

    def step(self, run=stepping.backward, **rest):
        self.learner.zero_grad(set_to_none=True)
        return run(self.objective, self.learner, self.given, torch.float32, **rest)[0]


@pytest.mark.parametrize("method", CLASS_METHODS)
def test_every_class_method_overfits_one_batch_and_leaves_the_teacher_alone(tmp_path, method):
    world = World(tmp_path, method)
    before = {k: v.clone() for k, v in world.tower.state_dict().items()}
    student = {k: v.clone() for k, v in world.student.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in world.learner.parameters() if p.requires_grad], lr=1e-3)
    first = world.step()
    for _ in range(30):
        last = world.step()
        optimizer.step()
    assert float(last) < 0.8 * float(first)
    assert all(torch.equal(v, before[k]) for k, v in world.tower.state_dict().items())
    assert all(p.grad is None for p in world.tower.parameters())
    moved = [k for k, v in world.student.state_dict().items() if not torch.equal(v, student[k])]
    assert bool(moved) == (world.method.student == "trained")


@pytest.mark.parametrize("method", CLASS_METHODS)
def test_everything_a_class_method_learns_gets_a_gradient(tmp_path, method):
    world = World(tmp_path, method)
    world.step()
    silent = {n for n, p in world.learner.named_parameters() if p.requires_grad and p.grad is None}
    if method == "c2kd":
        assert not silent
        tower = world.learner.terms["c2kd"].tower
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tower.parameters() if p.ndim > 1)
        return
    assert all(n.startswith(("student.", "projectors.project.")) for n in silent)
    image = {n for n in silent if n.startswith("student.image.native.")}
    assert not image
    if world.method.student == "frozen":
        assert not any(p.requires_grad for p in world.student.parameters()) and not world.student.training
        assert world.learner.terms["promptkd"].prompts.tokens.grad.abs().amin((1, 2)).min() > 0
    else:  # a student without a text tower: nothing of it moves
        assert {n for n, _ in world.learner.named_parameters() if n.startswith("student.clip.transformer")} <= silent


@pytest.mark.parametrize("method", CLASS_METHODS)
def test_chunks_give_a_class_methods_gradients_of_the_whole_batch(tmp_path, method):
    world = World(tmp_path, method)
    state = {k: v.clone() for k, v in world.learner.state_dict().items()}
    total = world.step()
    gradients = {n: p.grad.clone() for n, p in world.learner.named_parameters() if p.grad is not None}
    world.learner.load_state_dict(state)
    torch.testing.assert_close(world.step(backward_in_parts, parts=3), total)
    room = 1e-5 * max(float(g.abs().max()) for g in gradients.values())
    for name, p in world.learner.named_parameters():
        if name in gradients:
            torch.testing.assert_close(p.grad, gradients[name], atol=room, rtol=1e-3)


def test_the_student_outside_a_step_has_no_prompts(tmp_path):
    world = World(tmp_path, "promptkd")
    plain = world.student.encode_images(world.batch.student.images)
    world.step()
    inside = F.normalize(world.learner(world.batch.student, Needs()).final.image, dim=-1)
    assert torch.equal(world.student.encode_images(world.batch.student.images), plain)
    assert float((inside.detach() - plain).abs().max()) > 1e-5


def test_the_served_encoder_is_what_the_loss_sees_and_stands_still(tmp_path):
    world = World(tmp_path, "promptkd")
    part = world.learner.terms["promptkd"]
    encoder = part.encoder(world.student, world.tower)
    state = {k: v.clone() for k, v in world.learner.state_dict().items()}
    found = encoder.encode_images(world.batch.student.images)
    outputs = world.learner(world.batch.student, Needs())
    part.eval()
    torch.testing.assert_close(found, F.normalize(part.project(outputs.final.image), dim=-1).detach())
    assert all(torch.equal(v, state[k]) for k, v in world.learner.state_dict().items())
    assert torch.equal(encoder.encode_texts(["a star"]), world.tower.encode_texts(["a star"]))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("bank")
    os.environ["CMAPKD_DATA"] = str(root / "data")
    scenes.teacher_folder(root / "teacher", seed=0, width=48)
    scenes.teacher_folder(root / "student-init", seed=1, width=32)
    return root


def config(root, run, **over):
    steps = {
        "train__steps": 3,
        "train__checkpoint_every": 1,
        "eval__every": None,
        "cache__path": None,
        "cache__rank": 32,
    }
    return scenes.config(root, run=str(run), **{**steps, **over})


@pytest.mark.parametrize("method", CLASS_METHODS)
def test_a_run_of_a_class_method_resumes_to_the_bit_and_exports_the_plain_student(root, tmp_path, method):
    over = {"method": method, "train__centre": False, "train__accumulate": 2 if method == "promptkd" else 1}
    whole = distill(config(root, tmp_path / "whole", **over))
    scenes.cut_off(config(root, tmp_path / "cut", **over), 2)
    again = distill(config(root, tmp_path / "cut", **over), resume=True)
    a, b = (checkpoint.load_generation(checkpoint.latest(f / "checkpoints"))[0] for f in (whole, again))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

    student = load_tower(TowerConfig(model=f"local-dir:{whole / 'student'}")).native.state_dict()
    assert all(torch.equal(v, a[f"learner/student.clip.{k}"]) for k, v in student.items())
    card = (whole / "student" / "README.md").read_text()
    if METHODS[method].served is None:
        assert "method.safetensors" not in card and not (whole / "student" / "method.safetensors").exists()
    else:
        assert served_term(METHODS[method]).says in card and "the student alone" in card
        tensors = load_file(whole / "student" / "method.safetensors")
        assert tensors and all(torch.equal(v, a[f"learner/terms.{k}"]) for k, v in tensors.items())
    if METHODS[method].student == "frozen":
        first = load_tower(TowerConfig(model=str(root / "student-init"))).native.state_dict()
        assert all(torch.equal(v, first[k]) for k, v in student.items())


def test_vl2lite_scores_its_head_on_labelled_validation_data(root, tmp_path):
    over = {"method": "vl2lite", "data__train": "scenes:objects:2:train", "data__val": "scenes:objects:1:val",
            "eval__tasks": ["zeroshot"], "eval__zeroshot": "scenes:objects:1:val"}  # fmt: skip
    folder = distill(config(root, tmp_path / "run", **over))
    final = scenes.rows(folder)[-1]
    assert 0 <= final["head/acc1"] <= 1 and "zeroshot/acc1" in final


def test_a_frozen_student_must_have_been_trained(root, tmp_path):
    with pytest.raises(UsageError, match="'promptkd' keeps the student as it is, but .* set student.weights"):
        distill(config(root, tmp_path / "run", method="promptkd", student__model="ViT-B-32"))


def test_prompts_ask_for_a_vit_and_for_their_own_method(root, tmp_path):
    world = World(tmp_path, "promptkd_fullft")
    world.student.image.native.transformer = None
    with pytest.raises(UsageError, match="is not; give a ViT student, or method: promptkd_fullft"):
        toy.learner({"promptkd"}, world.student, world.tower, None, N, CLASSES)
    with pytest.raises(UsageError, match="set method: promptkd instead"):
        distill(config(root, tmp_path / "run", method="kd", weights={"promptkd": 1.0}))
    with pytest.raises(UsageError, match="0 leaves nothing of method 'promptkd'"):
        distill(config(root, tmp_path / "run", method="promptkd", weights={"promptkd": 0.0, "align": 1.0}))
