"""Whole small runs of the methods that keep something beside the student's weights, or change what they teach on the way."""

from __future__ import annotations

import json

import pytest

import world
from cmapkd.data.readers import open_samples
from cmapkd.train import checkpoint
from cmapkd.train.runs.distill import distill

GREEK = str.maketrans("abcdefghiklmnoprstuwxyz", "αβχδεφγηικλμνοπρστυωξψζ")  # a second language, letter by letter


def test_a_switch_in_the_config_reaches_the_loss_of_the_run(root, tmp_path):
    found = []
    for temperature in (1.0, 4.0):
        over = {"method": "kd", "options": {"logits": {"temperature": temperature}}, "train__steps": 1, "eval": {}}
        folder = distill(world.config(root, run=str(tmp_path / f"t{temperature}"), **over))
        rows = world.rows(folder)
        found.append(next(row["loss/logits"] for row in rows if row["kind"] == "train"))
    assert found[0] != found[1]


@pytest.mark.parametrize(
    "over",
    [
        {"method": "crd"},
        {"method": "mfd", "train__accumulate": 2},
        {"method": "fitnet_staged"},
        {"method": "dcclip"},
    ],
    ids=lambda over: over["method"],
)
def test_resuming_in_mid_run_is_bit_exact(root, tmp_path, over):
    over = {"eval__every": 8, **over}
    whole = distill(world.config(root, run=str(tmp_path / "whole"), **over))
    config = world.config(root, run=str(tmp_path / "cut"), **over)
    world.cut_off(config, 4)
    folder = distill(config, resume=True)
    x, y = (checkpoint.load_generation(checkpoint.latest(f / "checkpoints"))[0] for f in (whole, folder))
    assert x.keys() == y.keys() and [name for name in x if not x[name].equal(y[name])] == []
    if over["method"] == "crd":
        assert any("memory_teacher" in name for name in x) and (x["learner/terms.crd.image.constants"] > 0).all()


def test_dcclip_learns_two_languages_and_tells_the_retrieval_of_each(root, tmp_path):
    data = {}
    for split in ("train", "val"):
        samples = open_samples(f"scenes:16:{split}", world.config(root).data, None)
        captions = [
            {"image_id": i, "caption": text.translate(GREEK) if k % 2 else text}
            for i, own in enumerate(samples.captions)
            for k, text in enumerate(own)
        ]
        images = [{"id": i, "file_name": str(path)} for i, path in enumerate(samples.paths)]
        data[split] = tmp_path / f"{split}.json"
        data[split].write_text(json.dumps({"images": images, "annotations": captions}))
    over = {"data__train": str(data["train"]), "data__val": str(data["val"]), "cache__path": None, "cache__rank": 32}
    folder = distill(world.config(root, run=str(tmp_path / "run"), method="dcclip", train__steps=2, eval={}, **over))
    final = world.rows(folder)[-1]
    assert {"mean_recall@1", "latin/mean_recall@1", "greek/mean_recall@1"} <= set(final)
