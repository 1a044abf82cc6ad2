"""Runs whose L_task has data of its own: resumed to the bit, switched by weight, scored and kept at the end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file

import world
from cmapkd.config.load import load_config
from cmapkd.core.errors import UsageError
from cmapkd.core.log import MetricsLog
from cmapkd.methods import METHODS
from cmapkd.tasks import open_task_loss as opening
from cmapkd.tasks.table import LOSSES
from cmapkd.train import checkpoint, loop
from cmapkd.train.records.recorder import Recorder
from cmapkd.train.runs.distill import distill
from cmapkd.train.runs.folder import prepare_folder
from cmapkd.train.setup import assemble as assembling

SHARED = Path(os.environ.get("CMAPKD_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")

TRAIN = {
    "contrastive": "scenes:12:7", "classification": "scenes:objects:1:train", "vqa": "scenes:12:train",
    "detection": "scenes:12:train", "captioning": "scenes:12:train",
}  # fmt: skip


def settings(root: Path, run: Path, name: str, weight: float = 1.0, **over):
    task = {"name": name, "train": TRAIN[name], "batch": 4, "width": 32, **over.pop("task", {})}
    return world.config(root, run=str(run), weights__task=weight, task=task, **{"eval__every": None, **over})


def assembled(root: Path, folder: Path, name: str, **over) -> loop.Run:
    config = settings(root, folder, name, **over)
    return assembling.assemble(config, prepare_folder(config, False))


def rows(folder: Path, kind: str) -> list[dict]:
    found = world.rows(folder)
    return [row for row in found if row["kind"] == kind]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_generation(checkpoint.latest(folder / "checkpoints"))[0]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resuming_with_a_task_is_bit_exact(root, tmp_path, name, accumulate):
    over = {"train__accumulate": accumulate, "train__steps": 6, "train__checkpoint_every": 3}
    whole = distill(settings(root, tmp_path / "whole", name, **over))
    world.cut_off(settings(root, tmp_path / "cut", name, **over), 4)
    again = distill(settings(root, tmp_path / "cut", name, **over), resume=True)
    one, other = tensors(whole), tensors(again)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert [r["loss/task"] for r in rows(whole, "train")] == [r["loss/task"] for r in rows(again, "train")]
    assert any(k.startswith("learner/head.") for k in one) == (name in ("vqa", "detection", "captioning"))
    assert not any("tower" in k for k in one)


@pytest.mark.parametrize(
    "method", [m for m in METHODS if METHODS[m].student == "trained" and METHODS[m].start != "inherited"]
)
def test_a_task_stands_beside_every_method_that_trains_a_student(root, tmp_path, method):
    over = {"method": method, "train__steps": 2, "train__checkpoint_every": 2, "cache__path": None}
    folder = distill(settings(root, tmp_path / "run", "vqa", **over))
    first, second = rows(folder, "train")
    assert second["loss/task"] > 0 and first["loss"] > first["loss/task"]
    assert (folder / "head" / "head.safetensors").is_file()


def test_chunks_and_the_whole_batch_give_one_gradient(root, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(loop, "trainable", lambda run, moment: found.append(gradients(run)) or [])

    def gradients(run):
        return {n: p.grad.clone() for n, p in run.state.learner.named_parameters() if p.grad is not None}

    for weight, accumulate in ((1.0, 1), (1.0, 2), (0.0, 1)):
        config = settings(
            root, tmp_path / f"{weight}-{accumulate}", "detection", weight, train__accumulate=accumulate, train__steps=1
        )
        run = assembling.assemble(config, prepare_folder(config, False))
        torch.manual_seed(0)
        loop.train(run, 0, Recorder(run, MetricsLog(tmp_path / "log")))
    whole, chunks, without = found
    assert whole.keys() == chunks.keys() > without.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, chunks[name], atol=1e-5, rtol=1e-3)
    assert not torch.allclose(whole["student.clip.visual.conv1.weight"], without["student.clip.visual.conv1.weight"])


def test_the_gradient_is_the_terms_plus_the_weighted_task(root, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(loop, "trainable", lambda run, moment: found.append(trunk(run).grad.clone()) or [])

    def trunk(run):
        return run.state.learner.student.image.native.conv1.weight

    for weight in (0.0, 1.0, 3.0):
        config = settings(root, tmp_path / f"{weight}", "detection", weight, train__steps=1)
        run = assembling.assemble(config, prepare_folder(config, False))
        torch.manual_seed(0)
        loop.train(run, 0, Recorder(run, MetricsLog(tmp_path / "log")))
    without, once, thrice = found
    torch.testing.assert_close(thrice - without, 3 * (once - without), atol=1e-5, rtol=1e-3)


def test_a_task_changes_nothing_of_how_the_rest_begins(root, tmp_path):
    over = {"policy__name": "routing", "data__holdout": 0.2, "cache__path": None}
    runs = (assembled(root, tmp_path / str(weight), "captioning", weight=weight, **over) for weight in (1.0, 0.0))
    for with_task, without in zip(
        *((run.state.learner.state_dict(), run.state.policy.state_dict()) for run in runs), strict=True
    ):
        assert without.keys() == {k for k in with_task if not k.startswith("head.")}
        assert all(torch.equal(with_task[k], v) for k, v in without.items())


def test_weight_zero_reads_nothing_and_leaves_the_run_as_it_is_without(root, tmp_path, monkeypatch):
    plain = distill(world.config(root, run=str(tmp_path / "plain"), eval__every=None, train__steps=3))
    monkeypatch.setattr(opening, "read_data", lambda *_: pytest.fail("read"))
    folder = distill(settings(root, tmp_path / "zero", "vqa", 0.0, train__steps=3))
    one, other = tensors(plain), tensors(folder)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert not (folder / "head").exists()


def test_a_stage_may_switch_the_task_on_and_only_its_batches_are_read(root, tmp_path, monkeypatch):
    read = []
    run = assembled(
        root, tmp_path / "run", "vqa",
        schedule=[{"name": "off", "until": 0.5, "scale": {"task": 0.0}}, {"name": "on", "until": 1.0, "scale": {"task": 0.5}}],
    )  # fmt: skip
    batch = run.task.batch
    monkeypatch.setattr(run.task, "batch", lambda step: read.append(step) or batch(step))
    loop.train(run, 0, Recorder(run, MetricsLog(tmp_path / "log")))
    found = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [row["step"] for row in found if "loss/task" in row] == [5, 6, 7, 8] and read == [4, 5, 6, 7]
    for row in found:
        if row["step"] in (4, 8):
            terms = sum(
                run.objective.weights[k.removeprefix("loss/")] * v * (0.5 if k == "loss/task" else 1.0)
                for k, v in row.items()
                if k.startswith("loss/")
            )
            assert row["step"] == 4 or abs(row["loss"] - terms) < 1e-3 * abs(terms)


def test_the_task_may_be_all_that_a_run_learns(root, tmp_path):
    folder = distill(
        settings(root, tmp_path / "run", "detection", method="scratch", weights__align=0.0, train__steps=4)
    )
    assert all(row["loss"] == row["loss/task"] for row in rows(folder, "train"))
    start = load_file(checkpoint.latest(folder / "checkpoints") / "tensors.safetensors")
    fresh = assembled(root, tmp_path / "fresh", "detection", method="scratch").state.learner.state_dict()
    moved = [k for k, v in fresh.items() if not torch.equal(v, start[f"learner/{k}"])]
    assert "student.clip.visual.conv1.weight" in moved and not any("token_embedding" in k for k in moved)


def test_a_stage_of_adapters_trains_the_head_and_not_the_student(root, tmp_path):
    run = assembled(root, tmp_path / "run", "vqa", schedule=[{"name": "warm", "until": 1.0, "trainable": "adapters"}])
    before = {k: v.clone() for k, v in run.state.learner.state_dict().items()}
    loop.train(run, 0, Recorder(run, MetricsLog(tmp_path / "log")))
    moved = {k for k, v in run.state.learner.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.startswith("head.") for k in moved) and not any(k.startswith("student.") for k in moved)


def test_the_head_has_its_own_rate(root, tmp_path):
    run = assembled(root, tmp_path / "run", "vqa", task={"lr": 5e-3}, train__lr=1e-3, train__steps=1)
    loop.train(run, 0, Recorder(run, MetricsLog(tmp_path / "log")))
    head = {id(p) for p in run.state.learner.head.parameters()}
    rates = {(id(g["params"][0]) in head): g["lr"] for g in run.state.optimizer.param_groups}
    assert rates[True] == pytest.approx(5 * rates[False]) and sum(len(g["params"]) for g in run.state.optimizer.param_groups) == len(
        list(run.state.learner.parameters())
    )  # fmt: skip


def test_the_balance_counts_the_task_among_the_final_terms(root, tmp_path, monkeypatch):
    measured = []
    run = assembled(root, tmp_path / "run", "captioning", train__steps=3)
    measure = run.state.balance.measure
    monkeypatch.setattr(
        run.state.balance, "measure", lambda losses, *rest: measured.append(set(losses)) or measure(losses, *rest)
    )
    loop.train(run, 0, Recorder(run, MetricsLog(tmp_path / "log")))
    assert measured and all("task" in losses for losses in measured)


FIGURES = {
    "contrastive": "mean_recall@1", "classification": "acc1", "vqa": "accuracy", "detection": "mAP", "captioning": "cider",
}  # fmt: skip
VAL = {**dict.fromkeys(LOSSES, "scenes:6:val"), "classification": "scenes:objects:1:val"}


@pytest.mark.parametrize("name", LOSSES)
def test_the_end_scores_the_task_and_keeps_the_head_beside_the_student(root, tmp_path, name):
    folder = distill(settings(root, tmp_path / "run", name, train__steps=2, task={"val": VAL[name]}))
    final = rows(folder, "final")[0]
    value = final[f"{name}/{FIGURES[name]}"]
    assert 0 <= value <= 1 and "mean_recall@1" in final and final["task_unreadable"] == 0
    card = (folder / "student" / "README.md").read_text()
    assert f"task {name}, {TRAIN[name]}" in card and VAL[name] in card.split("## Training")[0]
    open_clip.create_model(f"local-dir:{folder / 'student'}")
    if name in ("contrastive", "classification"):
        assert not (folder / "head").exists()
        return
    facts, scores = (json.loads((folder / "head" / f"{n}.json").read_text()) for n in ("head", "scores"))
    assert facts["task"] == scores["task"] == name and scores["metrics"][FIGURES[name]] == value
    assert json.loads((folder / "head" / "results.json").read_text()) and scores["said"] in card
    kept, learnt = load_file(folder / "head" / "head.safetensors"), tensors(folder)
    mine = [v for k, v in learnt.items() if k.startswith("learner/head.")]
    assert len(kept) == len(mine) and sum(v.numel() for v in kept.values()) == sum(v.numel() for v in mine)


def test_without_data_to_score_on_the_head_is_kept_and_no_figure_is_made_up(root, tmp_path):
    folder = distill(settings(root, tmp_path / "run", "detection", train__steps=2))
    assert sorted(p.name for p in (folder / "head").iterdir()) == ["head.json", "head.safetensors"]
    assert not any(key.startswith("detection/") for key in rows(folder, "final")[0])


def test_captions_alone_are_no_task_and_the_way_out_is_told(root, tmp_path):
    over = {"weights__task": 1.0, "method": "scratch", "train__steps": 2, "eval__every": None}
    with pytest.raises(UsageError, match="needs labelled data, but .* has captions only; .*task.train"):
        distill(world.config(root, run=str(tmp_path / "b"), **over))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("task.name=vqq", r"task.name is 'vqq'; must be 'contrastive', .*did you mean 'vqa'"),
        ("task.val=scenes:8:val", "set task.train or drop task.val"),
        ("task.batch=1", "task.batch is 1; must be greater than or equal to 2"),
        ("task.trian=x", "unknown key 'task.trian' .*task.train"),
        ("task.holdout=1.5", "task.holdout is 1.5"),
        (
            "task={train: x, val: holdout, val_split: val}",
            "task: val is holdout, .* has no split 'val'; drop val_split",
        ),
    ],
)
def test_a_wrong_task_section_is_one_line(tmp_path, line, message):
    (tmp_path / "c.yaml").write_text("run: r\ndata: {train: 'scenes:8'}\nstudent: {model: x}\ntrain: {steps: 1}\n")
    with pytest.raises(UsageError, match=message) as error:
        load_config(tmp_path / "c.yaml", [line])
    assert "\n" not in str(error.value)


REAL = {
    "vqa": ("coco_mini/annotations/v2_OpenEnded_mscoco_train2014_questions.json", "holdout"),
    "detection": ("coco_mini/annotations/instances_train2017.json", "coco_mini/annotations/instances_val2017.json"),
    "captioning": ("coco_mini/annotations/captions_train2017.json", "coco_mini/annotations/captions_val2017.json"),
    "classification": ("tiny-imagenet-200/val", "tiny-imagenet-200/val"),
    "contrastive": (
        "flickr8k/annotations/captions_flickr8k_val.json",
        "flickr8k/annotations/captions_flickr8k_val.json",
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}; set CMAPKD_SHARED_DATA")
@pytest.mark.parametrize("name", REAL)
def test_photographs_make_a_task(root, tmp_path, name):
    train, val = (place if place == "holdout" else str(SHARED / place) for place in REAL[name])
    folder = distill(
        settings(root, tmp_path / "run", name, train__steps=2, task={"train": train, "val": val, "batch": 8})
    )
    assert 0 <= rows(folder, "final")[0][f"{name}/{FIGURES[name]}"] <= 1
