"""Runs of an image-only student under an image-only teacher: no texts are learnt, scored or saved."""

import pytest
import torch

import world
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.evaluation.evaluate import evaluate_folder
from cmapkd.export import onnx
from cmapkd.towers.load import load_tower
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.prepare import build_cache
from cmapkd.train.validation.neighbours import agreement, nearest
from families.one_sided import FAMILIES

SMALL = {"data__train": "scenes:24:train", "data__val": "scenes:12:val", "train__steps": 2, "train__batch": 6,
         "cache__calibration_samples": 20, "eval__every": None, "student__model": "timm:test_resnet"}  # fmt: skip
TERMS = {"cmapkd": {"fd", "intra_v"}, "clip_kd": {"fd"}, "fitnet": {"hint"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an image-only teacher and its cache."""
    root = tmp_path_factory.mktemp("images-alone")
    FAMILIES["test_vit"](root)
    build_cache(config(root, root / "unused"))
    return root


def config(place, run, **over):
    teacher = f"timm:test_vit:{place / 'test_vit.safetensors'}"
    given = {"run": str(run), "teacher__model": teacher, "cache__path": str(place / "cache"), **SMALL, **over}
    return world.config(place, **given)


@pytest.fixture(scope="module")
def trained(place):
    """The run of clip_kd from the cache."""
    return distill(config(place, place / "run", method="clip_kd", eval__every=1))


def losses(run) -> set[str]:
    row = next(row for row in world.rows(run) if any(name.startswith("loss/") for name in row))
    return {name.removeprefix("loss/") for name in row if name.startswith("loss/")}


@pytest.mark.parametrize(("method", "live"), [("cmapkd", False), ("clip_kd", True), ("fitnet", False)])
def test_the_halves_and_levels_of_images_teach_and_one_line_says_what_is_off(place, tmp_path, method, live, capfd):
    over = {"cache__path": None} if live else {}
    run = distill(config(place, tmp_path / "run", method=method, **over))
    said = capfd.readouterr().err.splitlines()
    assert losses(run) == TERMS[method]
    (off,) = [line for line in said if line.startswith("off: ")]
    assert "align" in off and "neither teacher" in off and "has a text tower" in off
    assert any("captions are ignored" in line for line in said)
    assert any("no term is left that trains the final embedding" in line for line in said) == (method == "fitnet")


def test_plain_timm_opens_the_students_folder_with_equal_embeddings(trained):
    import timm

    tower = load_tower(TowerConfig(model=str(trained / "student"))).eval()
    plain = timm.create_model(f"local-dir:{trained / 'student'}", pretrained=True).eval()
    x = torch.randn(2, 3, tower.size, tower.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain(x), tower.image.encode(x))
    assert tower.shape.sides == ("image",) and tower.shape.embedding == 64


def test_validation_scores_the_teachers_neighbours_and_keeps_the_best_student(trained):
    rows = [row for row in world.rows(trained) if row["kind"] == "val"]
    assert rows and all(0 <= row["neighbours@1"] <= 1 and 0 <= row["neighbours@10"] <= 1 for row in rows)
    assert "neighbours@10" in (trained / "best" / "README.md").read_text()


def test_neighbours_of_equal_embeddings_agree_and_leave_the_image_itself_out():
    rows = torch.nn.functional.normalize(torch.randn(15, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    goal = nearest(rows, 10, chunk=4)
    assert goal.shape == (15, 10) and not (goal == torch.arange(15)[:, None]).any()
    assert agreement(rows, goal) == {"neighbours@1": 1.0, "neighbours@10": 1.0}
    assert agreement(-rows[:, [1, 0, *range(2, 8)]], goal)["neighbours@10"] == pytest.approx(
        float((nearest(-rows[:, [1, 0, *range(2, 8)]], 10)[:, :, None] == goal[:, None]).any(1).double().mean())
    )


def test_a_cut_run_resumes_bit_by_bit(place, tmp_path):
    over = {"method": "cmapkd", "train__checkpoint_every": 1}
    whole = distill(config(place, tmp_path / "whole", **over))
    cut = config(place, tmp_path / "cut", **over)
    world.cut_off(cut, 1)
    distill(cut, resume=True)
    one, two = world.final_tensors(whole), world.final_tensors(tmp_path / "cut")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_scoring_by_texts_is_refused_in_one_line(trained):
    with pytest.raises(UsageError, match="it has no text tower, so it embeds no texts") as caught:
        evaluate_folder(str(trained), None, ["retrieval"])
    assert "\n" not in str(caught.value)


def test_onnx_holds_the_image_graph_alone(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "NEEDED", ())
    monkeypatch.setattr(onnx, "_export", lambda graph, draw, name, path, tolerance: onnx.Exported(path, 0.0, 1.0))
    tower = load_tower(TowerConfig(model=str(trained / "student")))
    assert [graph.path.name for graph in onnx.export_onnx(tower, tmp_path / "onnx")] == ["image.onnx"]
