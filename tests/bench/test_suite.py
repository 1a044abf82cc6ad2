"""The suite: five tasks on the built-in world, side by side; heads by themselves; what is finished is kept."""

import json
import os

import pytest

import world
from cmapkd.bench import suite as suites
from cmapkd.bench.heads import train_head
from cmapkd.bench.suite import suite, table
from cmapkd.cli import main
from cmapkd.config.suite import HeadData, SuiteConfig, load_suite
from cmapkd.core.errors import UsageError

TINY = {"epochs": 1, "batch": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    os.environ["CMAPKD_DATA"] = str(root / "data")
    world.teacher_folder(root / "teacher", seed=0, width=32)
    return root


def tasks() -> SuiteConfig:
    head = {"train": "scenes:16:train", "val": "scenes:8:val", **TINY}
    return SuiteConfig.model_validate(
        {"retrieval": {"data": "scenes:8:val"}, "zeroshot": {"data": "scenes:objects:8:val"}, "vqa": head,
         "detection": head, "captioning": head}
    )  # fmt: skip


def test_all_five_tasks_stand_in_one_table_and_are_not_run_twice(root, monkeypatch):
    model = f"local-dir:{root / 'teacher'}"
    path = suite([model], tasks(), root / "suite")
    header, _, row = (line.split("|")[1:-1] for line in path.read_text().splitlines())
    assert [cell.strip() for cell in header] == [
        "model", "T→I R@1", "I→T R@1", "mean R@1", "zero-shot top-1", "top-5", "VQA", "mAP", "AP50", "BLEU-4", "ROUGE-L",
        "CIDEr", "CLIPScore",
    ]  # fmt: skip
    assert all(cell.strip() for cell in row)
    lines = [json.loads(line) for line in (root / "suite" / "scores.jsonl").read_text().splitlines()]
    assert [line["task"] for line in lines] == ["retrieval", "zeroshot", "vqa", "detection", "captioning"]
    monkeypatch.setattr(suites, "_score", lambda *_: pytest.fail("scored again"))
    suite([model], tasks(), root / "suite")


def test_a_head_leaves_its_weights_scores_and_result_file(root):
    from cmapkd.bench.evaluate import open_model

    data = HeadData(train="scenes:16:train", val="scenes:8:val", **TINY)
    out = root / "head"
    train_head("vqa", open_model(f"local-dir:{root / 'teacher'}"), data, out)
    rows = json.loads((out / "results.json").read_text())
    assert rows and set(rows[0]) == {"question_id", "answer"}
    assert (out / "head.safetensors").is_file() and "accuracy" in json.loads((out / "scores.json").read_text())[
        "metrics"
    ]


def test_a_figure_that_does_not_exist_is_an_empty_cell():
    header, body = table({"a": {"detection": {"mAP": 0.5, "AP50": None}}, "b": {"retrieval": {"mean_recall@1": 0.25}}})
    assert header == ["model", "mean R@1", "mAP", "AP50"]
    assert body == [["a", "", "50.0", ""], ["b", "25.0", "", ""]]


def test_the_shipped_suite_names_all_five_tasks():
    assert all(getattr(load_suite(suites.Path("scenes")), task) for task in SuiteConfig.model_fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no keys"),
        ("zeroshot:", "names no task"),
        ("retrival: {data: x}", "retrival"),
        ("vqa: {train: x}", "val"),
        ("retrieval: 3", "retrieval"),
    ],
)
def test_a_wrong_suite_is_one_clear_line(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_suite(tmp_path / "s.yaml")


def test_unknown_suites_and_heads_on_wrong_data_are_said(root, capsys):
    assert main(["suite", "scene", "x"]) == 2 and "did you mean 'scenes'" in capsys.readouterr().err
    where = str(root / "nothing.json")
    model = f"local-dir:{root / 'teacher'}"
    code = main(["train-head", "vqa", model, "--train", where, "--val", where, "--out", str(root / "no")])
    assert code == 3 and "nothing.json" in capsys.readouterr().err
