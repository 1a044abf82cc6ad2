"""FitNet: the hint is the middle's error whatever else is on, and the stages say what learns when."""

from __future__ import annotations

import pytest
import torch

import toy
from cmapkd.config.schedules import resolve_schedule
from cmapkd.core.types import Pair, StudentOutputs
from cmapkd.methods import METHODS, resolve
from cmapkd.methods.view import View
from cmapkd.teacher.live import LiveTeacher
from cmapkd.train.schedule import stage_at


def view(**errors: list[float]) -> View:
    final = Pair(torch.ones(2, 3), torch.ones(2, 3))
    outputs = StudentOutputs(final, final, errors={name: torch.tensor(both) for name, both in errors.items()})
    return toy.view(outputs, torch.tensor(1.0), torch.eye(2) > 0, levels=tuple(errors))


def test_the_hint_is_the_error_of_the_middle_levels_and_no_others() -> None:
    hint, p3, l2 = toy.term("hint"), [2.0, 6.0], [30.0, 50.0]
    others = {"P2": [1.0, 1.0], "P4": [4.0, 8.0], "L1": [10.0, 10.0]}
    assert float(hint(view(P3=p3, L2=l2, **others))) == 4.0 + 40.0
    assert float(hint(view(P3=p3, L2=l2))) == 4.0 + 40.0
    assert float(hint(view(P5=[1.0, 1.0], L2=l2))) == 40.0
    assert hint.active_levels(("P4", "P5")) == (), "there it is off"


@pytest.fixture
def parts(tmp_path):
    teacher = toy.tower(tmp_path, seed=1, width=48).requires_grad_(False)
    targets, student = toy.targets(teacher, rank=32), toy.tower(tmp_path, seed=2)
    method = resolve("fitnet_staged", {}, {})
    learner = toy.learner(method.weights, student, teacher, targets)
    objective = toy.objective(learner, method, targets.pairs)
    return learner, objective, LiveTeacher(teacher, targets), toy.batch(student, teacher, 4)


def test_the_first_stage_trains_the_student_up_to_the_guided_layer_and_the_regressor(parts) -> None:
    learner, objective, teacher, batch = parts
    first = stage_at(resolve_schedule(None, METHODS["fitnet_staged"].stages), 0.0)
    torch.nn.init.normal_(learner.projectors.adapters["P3"][1].weight, std=0.05)
    torch.nn.init.normal_(learner.projectors.adapters["L2"][1].weight, std=0.05)
    given = toy.given(objective, batch, first, teacher)
    losses = toy.losses(objective, learner, given)
    assert set(losses) == {"hint"} and set(given.needs.levels) == {"P3", "L2"}
    objective.total(losses, first).backward()
    moved = {name for name, p in learner.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    blocks = learner.student.image.native.transformer.resblocks
    touched = {name for name, p in learner.named_parameters() if p.grad is not None}
    assert touched == moved, "a gradient of zeros is a gradient: AdamW decays what has one"
    tapped = learner.student.image.taps[1]
    for k in range(len(blocks)):
        below = any(f"visual.transformer.resblocks.{k}." in name for name in moved)
        assert below == (k <= tapped)
    assert {name.split(".")[2] for name in moved if name.startswith("projectors.")} == {"P3", "L2"}


def test_the_second_stage_is_distillation_of_logits_without_any_level(parts) -> None:
    learner, objective, teacher, batch = parts
    second = stage_at(resolve_schedule(None, METHODS["fitnet_staged"].stages), 0.5)
    given = toy.given(objective, batch, second, teacher)
    assert given.needs.levels == () and given.needs.teacher
    assert set(toy.losses(objective, learner, given)) == {"align", "logits"}


def test_the_joint_form_keeps_task_and_hint_together_to_the_end() -> None:
    stages = resolve_schedule(None, METHODS["fitnet"].stages)
    assert len(stages) == 1 and set(stages[0].levels) == {"P3", "L2"} and not stages[0].scale
