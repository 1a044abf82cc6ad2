"""Runs between softmax and sigmoid models, all four pairs: live and from a cache, what is trained, logged and kept."""

from __future__ import annotations

import json
import math

import pytest
import torch

import toy
import world
from cmapkd.config.schema import TowerConfig
from cmapkd.core.types import LogitScale
from cmapkd.losses.contrastive import similarity
from cmapkd.towers.load import load_tower
from cmapkd.train.batches import inputs_of
from cmapkd.train.runs.distill import distill
from cmapkd.train.runs.folder import prepare_folder
from cmapkd.train.schedule import stage_at
from cmapkd.train.setup.assemble import assemble
from cmapkd.train.setup.prepare import build_cache

KINDS = ("softmax", "sigmoid")
SIGMOID = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}


@pytest.fixture(scope="module")
def both(root):
    """`root` with a teacher and a student of the sigmoid kind beside those of the softmax kind, and its finished cache."""
    world.teacher_folder(root / "teacher-sigmoid", seed=0, width=48, **SIGMOID)
    world.teacher_folder(root / "student-sigmoid", seed=1, width=32, **SIGMOID)
    build_cache(config(root, "softmax", "sigmoid"))
    return root


def config(root, student: str, teacher: str, **over):
    of_teacher = {} if teacher == "softmax" else {
        "teacher__model": f"local-dir:{root / 'teacher-sigmoid'}", "cache__path": str(root / "cache-sigmoid")
    }  # fmt: skip
    name = "student-init" if student == "softmax" else "student-sigmoid"
    more = {"student__model": str(root / name), "train__steps": 2, "eval": {}, "data__val": None}
    return world.config(root, **{**of_teacher, **more, **over})


def biases(folder) -> float | None:
    return load_tower(TowerConfig(model=f"local-dir:{folder}")).similarity.fixed().bias


@pytest.mark.parametrize("method", ["cmapkd", "clip_kd", "kd"])
@pytest.mark.parametrize("teacher", KINDS)
@pytest.mark.parametrize("student", KINDS)
def test_every_pair_of_kinds_trains_and_the_student_keeps_its_own(both, tmp_path, student, teacher, method):
    folder = distill(config(both, student, teacher, run=str(tmp_path / "r"), method=method))
    rows = [row for row in world.rows(folder) if row["kind"] == "train"]
    assert len(rows) == 2 and all(math.isfinite(v) for row in rows for k, v in row.items() if k.startswith("loss"))
    assert rows[0]["loss/align"] != rows[1]["loss/align"] and rows[0]["loss/logits"] > 0
    moved = biases(folder / "student")
    if student == "softmax":
        assert moved is None and "bias" not in rows[0]
    else:
        assert moved is not None and moved != -10 and moved == rows[1]["bias"] and abs(moved + 10) < 0.1


@pytest.mark.parametrize("student", KINDS)
def test_a_cached_sigmoid_teacher_is_the_live_one(both, tmp_path, student):
    found = []
    for path in (str(both / "cache-sigmoid"), None):
        one = config(both, student, "sigmoid", run=str(tmp_path / f"r{len(found)}"), method="clip_kd", cache__path=path)
        run = assemble(one, prepare_folder(one, False))
        given = inputs_of(run, run.loader.batch(0), stage_at(run.stages, 0.0))
        assert given.teacher.similarity.scale == pytest.approx(10.0) and given.teacher.similarity.bias == -10.0
        losses = toy.losses(run.objective, run.state.learner, given)
        found.append({name: float(loss.detach()) for name, loss in losses.items()})
    assert found[0] == pytest.approx(found[1], rel=3e-2, abs=1e-3)
    if student == "sigmoid":  # both sides at the teacher's scale and bias
        mine, theirs = run.state.learner.student.final(given.batch.student), given.teacher.final
        q, p = (
            (10 * similarity(rows.image, rows.text).double() - 10).sigmoid()
            for rows in (mine.map(torch.detach), theirs)
        )
        wanted = float((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum() / len(p))
        assert found[1]["logits"] == pytest.approx(wanted, rel=1e-3)


def test_a_cache_without_a_bias_is_of_a_softmax_teacher(root):
    record = root / "cache" / "teacher.json"
    facts = json.loads(record.read_text())
    assert facts.pop("bias") is None
    record.write_text(json.dumps(facts))
    run = assemble(config(root, "softmax", "softmax", run=str(root / "old")), root)
    assert run.teacher.similarity == LogitScale(facts["scale"])


@pytest.mark.parametrize(
    ("teacher", "method"), [("softmax", "kd"), ("softmax", "inherited"), ("sigmoid", "kd"), ("sigmoid", "inherited")]
)
def test_a_sigmoid_student_that_inherits_takes_the_teachers_bias_or_begins_at_a_fitted_one(
    both, tmp_path, teacher, method, monkeypatch
):
    arch = json.loads((both / "student-sigmoid" / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "small.json").write_text(json.dumps(arch))
    monkeypatch.setattr("cmapkd.towers.named.SHIPPED", tmp_path)
    over = {"method": method, "student__model": "small", "student__tokenizer": "teacher", "student__inherit": True}
    run = assemble(config(both, "sigmoid", teacher, run=str(tmp_path / "r"), **over), tmp_path)
    tower = run.state.learner.student
    found = tower.similarity.fixed()
    batch = run.loader.batch(0)
    final = tower.final(batch.student).map(torch.detach)
    expected = (found.scale * similarity(final.image, final.text) + found.bias).sigmoid().sum()
    if (teacher, method) == ("sigmoid", "kd"):
        assert found.bias == -10 and found.scale == pytest.approx(10)
    else:
        matches = (batch.samples[:, None] == batch.samples[None]).sum()
        assert float(expected) == pytest.approx(float(matches), rel=1e-3)


@pytest.mark.parametrize("student", KINDS)
def test_the_contrastive_task_loss_is_of_the_students_kind(both, tmp_path, student):
    task = {"name": "contrastive", "train": "scenes:24:train", "batch": 8}
    folder = distill(
        config(both, student, "softmax", run=str(tmp_path / "r"), method="kd", task=task, weights={"task": 1.0})
    )
    first = next(row for row in world.rows(folder) if row["kind"] == "train")
    assert first["loss/task"] == pytest.approx(first["loss/align"], rel=0.2)  # other pairs, the same student
