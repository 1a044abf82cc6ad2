"""`cmapkd eval` of a run scores what the run itself scored, also where that is more than its student."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

import world as scenes
from cmapkd.cli.main import main
from cmapkd.config.suite import ScoredData, read_suite
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.evaluation.evaluate import choose_protocols, evaluate_folder, open_subject
from cmapkd.train.runs.distill import distill

SERVED = ("promptkd", "promptkd_fullft", "vl2lite")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("eval")
    os.environ["CMAPKD_DATA"] = str(root / "data")
    scenes.teacher_folder(root / "teacher", seed=0, width=48)
    scenes.teacher_folder(root / "student-init", seed=1, width=32)
    return root


@pytest.fixture(scope="module")
def runs(root):
    """A finished run of each method, on labelled data with captions of their own for validation."""
    found = {}
    for method in (*SERVED, "kd"):
        config = scenes.config(
            root, run=str(root / method), method=method, data__train="scenes:objects:2:train", data__val="scenes:8:val",
            eval__tasks=["retrieval", "zeroshot"], eval__zeroshot="scenes:objects:1:val", eval__every=None,
            train__steps=3, cache__path=None, cache__rank=32,
        )  # fmt: skip
        found[method] = distill(config)
    return found


def scored(*words, out):
    assert main(["eval", *map(str, words), "--out", str(out)]) == 0
    return {score["task"]: score for score in json.loads(out.read_text())}


@pytest.mark.parametrize("method", (*SERVED, "kd"))
def test_eval_of_a_run_gives_the_runs_own_final_figures(runs, method, tmp_path):
    final = scenes.rows(runs[method])[-1]
    found = scored(runs[method], "--tasks", "retrieval", "zeroshot", out=tmp_path / "scores.json")
    again = found["retrieval"]["metrics"] | {
        (name if "/" in name else f"zeroshot/{name}"): value for name, value in found["zeroshot"]["metrics"].items()
    }
    assert again == {name: final[name] for name in again} and ("head/acc1" in again) == (method == "vl2lite")
    says = any(note.startswith("of the student's image tower") for note in found["retrieval"]["notes"])
    assert says == (method in SERVED)


def test_the_student_alone_has_other_figures_and_says_so(runs, tmp_path):
    (score,) = scored(runs["promptkd"] / "student", "--data", "scenes:8:val", out=tmp_path / "s.json").values()
    assert any("the student alone" in note for note in score["notes"])
    whole = open_subject(str(runs["promptkd"]))
    assert whole.service is not None and whole.encoder is not whole.tower


def test_the_agreement_with_a_teacher_is_one_more_line(root, runs, tmp_path, capsys):
    teacher = str(root / "teacher")
    found = scored(teacher, "--data", "scenes:8:val", "--teacher", teacher, out=tmp_path / "s.json")
    same = found["agreement"]["metrics"]
    assert same["image_top1_agreement"] == same["text_top1_agreement"] == 1 and same["pearson"] == pytest.approx(1)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"agreement (with {teacher}) · scenes:8:val · 8 images · 40 captions · ")
    assert "image_top1_agreement 100.00 %, text_top1_agreement 100.00 %, pearson 1.000" in said
    own = scored(runs["kd"], "--teacher", "teacher", out=tmp_path / "o.json")["agreement"]  # the teacher of the run
    elsewhere = scored(runs["kd"], "--data", "scenes:8:val", "--teacher", teacher, out=tmp_path / "e.json")["agreement"]
    assert own["metrics"] == elsewhere["metrics"] and -1 <= own["metrics"]["spearman"] < 1


def test_an_agreement_needs_captions_and_a_teacher_that_can_be_found(root, capsys):
    assert main(["eval", str(root / "teacher"), "--data", "scenes:8:val", "--teacher", "teacher"]) == 2
    assert "eval teacher: needs --config with teacher.model" in capsys.readouterr().err


def test_a_run_whose_teacher_is_gone_says_what_can_be_scored(runs, tmp_path):
    run = shutil.copytree(runs["promptkd"], tmp_path / "run")
    text = (run / "config.yaml").read_text()
    teacher = next(line for line in text.splitlines() if "/teacher" in line)
    (run / "config.yaml").write_text(text.replace(teacher, f"  model: local-dir:{tmp_path / 'gone'}"))
    with pytest.raises(
        UsageError, match=r"the teacher cannot be loaded .*gone.* or score the student alone: .*student"
    ):
        open_subject(str(run))


def test_tensors_that_do_not_fit_are_refused(runs, tmp_path):
    run = shutil.copytree(runs["promptkd"], tmp_path / "run")
    path = run / "student" / "method.safetensors"
    tensors = load_file(path)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="says no sizes"):
        open_subject(str(run))
    path.write_bytes(b"cut off")
    with pytest.raises(IntegrityError, match="cannot be read"):
        open_subject(str(run))


def test_a_suite_scores_the_served_encoder_too(runs, tmp_path, root):
    from cmapkd.evaluation.suite import suite

    tasks = read_suite({"retrieval": {"data": "scenes:8:val"}}, "suite")
    suite([str(root / "teacher"), str(runs["promptkd"])], tasks, tmp_path / "suite")
    lines = [json.loads(line) for line in (tmp_path / "suite" / "scores.jsonl").read_text().splitlines()]
    assert lines[1]["metrics"]["mean_recall"] == scenes.rows(runs["promptkd"])[-1]["mean_recall"]


def test_a_model_without_weights_says_so(tmp_path):
    assert any("RANDOM WEIGHTS" in note for note in open_subject("cmapkd-small-64").notes)


def test_protocols_go_to_the_task_that_has_them():
    assert choose_protocols(["zeroshot", "retrieval"], ["first-caption", "simple-7"]) == {
        "zeroshot": "simple-7", "retrieval": "first-caption"
    }  # fmt: skip
    assert choose_protocols(["retrieval"], []) == {"retrieval": "standard"}
    with pytest.raises(UsageError, match="none of these tasks has it; retrieval has standard, first-caption"):
        choose_protocols(["retrieval"], ["simple-7"])
    with pytest.raises(UsageError, match="retrieval has one already, standard"):
        choose_protocols(["retrieval"], ["standard", "first-caption"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "val"], "of which data? give --data PATH too"),
        (["--tasks", "vqa", "--data", "scenes:8"], "cmapkd train-head vqa, or cmapkd suite"),
        (
            ["--tasks", "retrival", "--data", "scenes:8"],
            "there are: retrieval, zeroshot, hard_negatives (did you mean 'retrieval'?)",
        ),
        (["--protocol", "coco", "--data", "scenes:8"], "none of these tasks has it"),
        (["--protocol", "coco-5000", "--data", "scenes:8"], "coco-5k, coco-1k (did you mean 'coco-5k'?)"),
        (["--data", "scenes:8", "--out", "no/such/folder.json"], "give a new JSON file"),
        ([], "on what data? give --data PATH"),
    ],
)
def test_a_wrong_question_is_one_line_and_exit_code_2(root, words, message, capsys):
    assert main(["eval", str(root / "teacher"), *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_an_unfinished_run_is_no_model(tmp_path, runs):
    (tmp_path / "run").mkdir()
    shutil.copy(runs["kd"] / "config.yaml", tmp_path / "run" / "config.yaml")
    with pytest.raises(UsageError, match="has no finished student; train it, or go on with --resume"):
        evaluate_folder(str(tmp_path / "run"), ScoredData(data="scenes:8:val"), ["retrieval"])
