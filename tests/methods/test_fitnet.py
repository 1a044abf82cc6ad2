"""FitNet: the hint is the middle's error whatever else is on, and the stages say what learns when."""

from __future__ import annotations

import pytest
import torch

import toy
from cmapkd.core.types import Outputs, Pair, View
from cmapkd.methods import METHODS, TERMS, resolve
from cmapkd.teacher.live import LiveTeacher
from cmapkd.train import step as stepping
from cmapkd.train.learner import build_learner
from cmapkd.train.objective import Objective
from cmapkd.train.schedule import at, resolve_schedule


def view(levels: tuple[str, ...], image: torch.Tensor | None, text: torch.Tensor | None) -> View:
    final = Pair(torch.ones(2, 3), torch.ones(2, 3))
    outputs = Outputs(final, final, {name: torch.zeros(2, 1, 1) for name in levels}, {}, {}, None)
    return View(outputs, torch.tensor(1.0), torch.eye(2) > 0, None, Pair(image, text))


def test_the_hint_is_the_error_of_the_middle_levels_and_no_others() -> None:
    image, text = torch.tensor([[1.0, 2.0, 4.0], [1.0, 6.0, 8.0]]), torch.tensor([[10.0, 30.0], [10.0, 50.0]])
    hint = TERMS["hint"].loss
    assert float(hint(view(("P2", "P3", "P4", "L1", "L2"), image, text))) == 4.0 + 40.0
    assert float(hint(view(("P3", "L2"), image[:, 1:2], text[:, 1:]))) == 4.0 + 40.0
    assert float(hint(view(("P5", "L2"), image[:, :1], text[:, 1:]))) == 40.0
    assert float(hint(view(("P4", "P5"), image[:, :2], None))) == 0.0


@pytest.fixture
def parts(tmp_path):
    teacher = toy.tower(tmp_path, seed=1, width=48).requires_grad_(False)
    targets, student = toy.targets(teacher, rank=32), toy.tower(tmp_path, seed=2)
    method = resolve("fitnet_staged", {}, {})
    learner = build_learner(student, teacher.shape, targets, method.weights)
    objective = Objective(learner, method, dict(method.weights), targets.pairs)
    return learner, objective, LiveTeacher(teacher, targets), toy.batch(student, teacher, 4)


def test_the_first_stage_trains_the_student_up_to_the_guided_layer_and_the_regressor(parts) -> None:
    learner, objective, teacher, batch = parts
    first = at(resolve_schedule(None, METHODS["fitnet_staged"]), 0.0)
    torch.nn.init.normal_(learner.necks.adapters["P3"][1].weight, std=0.05)
    torch.nn.init.normal_(learner.necks.adapters["L2"][1].weight, std=0.05)
    levels = objective.levels(first)
    outputs = stepping.forward(learner, batch.student, levels, None, torch.float32)
    losses = objective.losses(outputs, teacher.teach(batch, levels), batch, first)
    assert set(losses) == {"hint"} and set(levels) == {"P3", "L2"}
    objective.total(losses, first).backward()
    moved = {name for name, p in learner.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    blocks = learner.student.image.native.transformer.resblocks
    touched = {name for name, p in learner.named_parameters() if p.grad is not None}
    assert touched == moved, "a gradient of zeros is a gradient: AdamW decays what has one"
    tapped = learner.student.image.taps[1]
    for k in range(len(blocks)):
        below = any(f"visual.transformer.resblocks.{k}." in name for name in moved)
        assert below == (k <= tapped)
    assert {name.split(".")[2] for name in moved if name.startswith("necks.")} == {"P3", "L2"}


def test_the_second_stage_is_distillation_of_logits_without_any_level(parts) -> None:
    learner, objective, teacher, batch = parts
    second = at(resolve_schedule(None, METHODS["fitnet_staged"]), 0.5)
    assert objective.levels(second) == () and not objective.needs("levels", second)
    outputs = stepping.forward(learner, batch.student, (), None, torch.float32)
    assert set(objective.losses(outputs, teacher.teach(batch, ()), batch, second)) == {"align", "logits"}


def test_the_joint_form_keeps_task_and_hint_together_to_the_end() -> None:
    stages = resolve_schedule(None, METHODS["fitnet"])
    assert len(stages) == 1 and set(stages[0].levels) == {"P3", "L2"} and not stages[0].scale
