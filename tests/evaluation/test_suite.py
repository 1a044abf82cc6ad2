"""The suite: five tasks on the built-in world, side by side; heads by themselves; what is finished is kept."""

import json
import os
import shutil

import pytest

import world
from cmapkd.cli.main import main
from cmapkd.config.suite import SUITES, HeadData, ScoredData, SuiteConfig, load_suite, read_suite
from cmapkd.core.errors import UsageError
from cmapkd.evaluation import suite as suites
from cmapkd.evaluation.suite import Entry, columns_of, entries_of, suite, table, to_markdown
from cmapkd.evaluation.train_head import train_head
from cmapkd.tasks.table import chosen_protocol

TINY = {"epochs": 1, "batch": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    os.environ["CMAPKD_DATA"] = str(root / "data")
    world.teacher_folder(root / "teacher", seed=0, width=32)
    return root


def tasks() -> SuiteConfig:
    head = {"train": "scenes:16:train", "val": "scenes:8:val", **TINY}
    return read_suite(
        {"retrieval": {"data": "scenes:8:val"}, "zeroshot": {"data": "scenes:objects:1:val"}, "vqa": head,
         "detection": head, "captioning": head}, "suite"
    )  # fmt: skip


def test_all_five_tasks_stand_in_one_table_with_what_they_are_of_and_are_not_run_twice(root, monkeypatch):
    model = f"local-dir:{root / 'teacher'}"
    path = suite([model], tasks(), root / "suite")
    header, _, row, _, *sources = path.read_text().splitlines()
    names, cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (header, row))
    assert [name for name in names if name not in ("METEOR", "SPICE")] == [
        "model", "T→I R@1", "I→T R@1", "mean R@1", "zero-shot top-1", "top-5", "VQA", "yes/no", "number", "other", "mAP",
        "AP50", "AP75", "BLEU-4", "ROUGE-L", "CIDEr", "CLIPScore",
    ]  # fmt: skip
    assert all(cells)
    of = dict(line.removeprefix("- ").split(": ", 1) for line in sources)
    assert set(of) == {"retrieval", "zeroshot", "vqa", "detection", "captioning"}
    assert all("data " in said and "images" in said for said in of.values()), of
    assert of["captioning"].endswith(f" · CLIPScore by {model}") and sum(model in said for said in of.values()) == 1
    assert of["retrieval"].startswith("retrieval (standard) · scenes:8:val · 8 images · 40 captions")
    lines = [json.loads(line) for line in (root / "suite" / "scores.jsonl").read_text().splitlines()]
    assert [line["task"] for line in lines] == ["retrieval", "zeroshot", "vqa", "detection", "captioning"]
    assert len(lines[1]["per_class"]) == 64
    monkeypatch.setattr(suites, "_score", lambda *_: pytest.fail("scored again"))
    suite([model], tasks(), root / "suite")


def test_a_model_that_was_trained_again_is_scored_again(root, tmp_path):
    copy = shutil.copytree(root / "teacher", tmp_path / "model")
    retrieval = read_suite({"retrieval": {"data": "scenes:8:val"}}, "suite")
    scores = tmp_path / "suite" / "0-model" / "retrieval" / "scores.json"
    suite([str(copy)], retrieval, tmp_path / "suite")
    first = scores.read_text()
    world.teacher_folder(copy.with_name("other"), seed=5, width=32)
    shutil.rmtree(copy)
    copy.with_name("other").rename(copy)
    suite([str(copy)], retrieval, tmp_path / "suite")
    assert scores.read_text() != first


def test_another_judge_scores_the_captions_again_and_nothing_else(root, tmp_path):
    world.teacher_folder(tmp_path / "other", seed=5, width=32)
    both = read_suite({"retrieval": {"data": "scenes:8:val"}, "captioning": tasks().captioning}, "suite")
    student, out = f"local-dir:{root / 'teacher'}", tmp_path / "suite"
    suite([str(tmp_path / "other"), student], both, out)
    files = [out / "1-teacher" / task / "scores.json" for task in ("captioning", "retrieval")]
    written = [file.stat().st_mtime_ns for file in files]
    world.teacher_folder(tmp_path / "third", seed=6, width=32)
    suite([str(tmp_path / "third"), student], both, out)
    assert [file.stat().st_mtime_ns == at for file, at in zip(files, written, strict=True)] == [False, True]
    judges = [json.loads(line).get("judge") for line in (out / "scores.jsonl").read_text().splitlines()]
    assert judges == [None, str(tmp_path / "third")] * 2


def test_one_task_on_two_sets_has_a_column_of_each_and_its_protocol(root, tmp_path):
    both = read_suite(
        {"retrieval": [{"name": "all", "data": "scenes:8:val"},
                       {"name": "one", "data": "scenes:8:val", "protocol": "first-caption"}]}, "suite"
    )  # fmt: skip
    text = suite([str(root / "teacher")], both, tmp_path / "suite").read_text()
    assert "T→I R@1 (all)" in text and "T→I R@1 (one)" in text
    assert "- retrieval-one: retrieval (first-caption) · scenes:8:val · 8 images · 8 captions" in text


def test_a_table_that_would_be_too_wide_is_one_a_task(root):
    entries = [
        Entry(task, ScoredData(name=f"set {k}", data="x")) for task in ("retrieval", "zeroshot") for k in range(5)
    ]
    found = {"m": {entry.key: dict.fromkeys(columns_of(entry.task), 0.5) for entry in entries}}
    lines = list(to_markdown(found, entries))
    assert [line.count("|") - 1 for line in lines if line.startswith("| model")] == [1 + 5 * 3, 1 + 5 * 3]


def test_what_is_held_out_of_one_set_is_not_trained_on(root, tmp_path):
    data = {"train": "scenes:16:train", "val": "holdout", "holdout": 0.25, **TINY}
    path = suite([str(root / "teacher")], read_suite({"vqa": data}, "suite"), tmp_path / "suite")
    assert "held-out 25% of the images · 4 images" in path.read_text() and "36 training questions" in path.read_text()
    answered = json.loads((tmp_path / "suite" / "0-teacher" / "vqa" / "results.json").read_text())
    assert len({row["question_id"] // 1000 for row in answered}) == 4


def test_a_head_leaves_its_weights_scores_and_result_file(root):
    from cmapkd.evaluation.evaluate import open_model

    data = HeadData(train="scenes:16:train", val="scenes:8:val", **TINY)
    out = root / "head"
    train_head("vqa", open_model(f"local-dir:{root / 'teacher'}"), data, out)
    rows = json.loads((out / "results.json").read_text())
    assert rows and set(rows[0]) == {"question_id", "answer"}
    assert (out / "head.safetensors").is_file() and "accuracy" in json.loads((out / "scores.json").read_text())[
        "metrics"
    ]


def test_a_figure_that_does_not_exist_is_an_empty_cell():
    found = {
        "a": {"detection": {"mAP": 0.5, "AP50": None}},
        "b": {"retrieval": {"mean_recall@1": 0.25}, "detection": {"AP50": 0.1}},
    }
    entries = [Entry(task, ScoredData(data="x")) for task in ("retrieval", "detection")]
    header, body = table(found, entries)
    assert header == ["model", "mean R@1", "mAP", "AP50"]
    assert body == [["a", "", "50.0", ""], ["b", "25.0", "", "10.0"]]


@pytest.mark.parametrize("name", sorted(path.stem for path in SUITES.glob("*.yaml")))
def test_the_shipped_suites_name_all_tasks_and_known_protocols(name):
    tasks = load_suite(suites.Path(name))
    synthetic_only = {"hard_negatives"} if name == "photographs" else set()
    assert {task for task in SuiteConfig.__struct_fields__ if not getattr(tasks, task)} == synthetic_only
    for entry in entries_of(tasks):
        if isinstance(entry.data, ScoredData):
            chosen_protocol(entry.task, entry.data.protocol)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no keys"),
        ("zeroshot:", "names no task"),
        ("retrival: {data: x}", "retrival"),
        ("vqa: {train: x}", "val"),
        ("retrieval: 3", "retrieval"),
        ("retrieval: [{data: x}, {data: y}]", "need a name each"),
        ("retrieval: {data: x, name: ../up}", "name"),
        ("vqa: {train: x, val: y, epochs: -1}", r"vqa.0.epochs is -1; must be greater than 0"),
        ("vqa: {train: x, val: holdout, holdout: 1.5}", "holdout"),
        ("vqa: {train: x, val: holdout, val_split: val}", "a share of train, which has no split 'val'; drop val_split"),
        ("vqa: {train: x, val: y, holdout: 0.2}", "holdout is a share of .train. and val is 'y'"),
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


def test_a_protocol_that_no_task_has_is_refused_before_anything_is_scored(root, tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("retrieval: {data: 'scenes:8:val', protocol: coco-5000}")
    out = tmp_path / "out"
    assert main(["suite", str(tmp_path / "s.yaml"), str(root / "teacher"), "--out", str(out)]) == 2
    assert "has no protocol 'coco-5000'; it has: standard," in (err := capsys.readouterr().err) and not out.exists()
    assert err.endswith("(did you mean 'coco-5k'?)\n")


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("retrieval-B", {"name": "B", "data": "gone.json"}),
        ("captioning", {"train": "scenes:8:train", "val": "gone.json"}),
    ],
)
def test_data_that_is_not_there_is_said_before_anything_is_scored(root, tmp_path, capsys, name, entry):
    tasks: dict = {"retrieval": [{"name": "A", "data": "scenes:8:val"}]}
    tasks.setdefault(name.partition("-")[0], []).append(entry)
    (tmp_path / "s.yaml").write_text(json.dumps(tasks))
    out = tmp_path / "out"
    assert main(["suite", str(tmp_path / "s.yaml"), str(root / "teacher"), "--out", str(out)]) == 3
    err = capsys.readouterr().err
    assert err.startswith(f"error: suite {name}: gone.json: no such file") and err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--epochs", "-1", "epochs is -1.0; must be greater than 0"),
        ("--batch", "0", "batch is 0"),
        ("--holdout", "2", "holdout is 2.0"),
        ("--val-split", "val", "error: train-head: val is holdout, a share of train, which has no split 'val'"),
    ],
)
def test_a_number_that_cannot_be_is_one_line_and_exit_code_2(option, value, rule, capsys, tmp_path):
    words = ["train-head", "vqa", "x", "--train", "a", "--val", "holdout", "--out", str(tmp_path / "o"), option, value]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: train-head: ") and rule in err and err.count("\n") == 1
