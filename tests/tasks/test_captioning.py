"""Captioning from pictures to figures: a decoder is learnt on a frozen tower, deterministically; result files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import toy
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.samples import Samples
from cmapkd.tasks.captioning import results as captions
from cmapkd.tasks.captioning.probe import Settings, caption_tokens, train_captioner
from cmapkd.tasks.frozen_features import Extraction
from cmapkd.tasks.frozen_probe import Fitting
from cmapkd.tasks.result_file import write_results

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
FAST = Settings(
    width=32, depth=2, heads=2, dropout=0.0, smoothing=0.0, java=False,
    fitting=Fitting(epochs=50, batch=12, lr=5e-3), extraction=Extraction(level="P4", batch=5),
)  # fmt: skip
SHORT = replace(FAST, fitting=Fitting(epochs=1, batch=5), dropout=0.1)


def world(folder, per=3) -> Samples:
    """Plain pictures of three colours with two captions each."""
    rows = []
    for k in range(per):
        for colour, rgb in COLOURS.items():
            path = folder / f"{colour}_{k}.png"
            noise = np.random.default_rng(k).integers(-20, 20, (32, 32, 3))
            Image.fromarray((np.array(rgb) + noise).clip(0, 255).astype(np.uint8)).save(path)
            rows.append((path, (f"a {colour} star above the tree", f"two {colour} ring beside the small house")))
    paths, captions = zip(*rows, strict=True)
    return Samples("colours", tuple(f"COCO_toy_{k:012d}.png" for k in range(len(paths))), paths, captions)


def test_a_decoder_learns_to_caption_what_it_sees(tmp_path):
    tower, samples = toy.tower(tmp_path / "tok"), world(tmp_path)
    before = [p.clone() for p in tower.parameters()]
    result = train_captioner(tower, samples, samples, FAST, judge=tower)
    colours = [next(c for c in COLOURS if c in texts[0]) for texts in samples.captions]
    said = [row["caption"] for row in result.results]
    assert all(colour in caption.split() for colour, caption in zip(colours, said, strict=True)), said
    assert result.score.metrics["bleu_4"] > 0.9 and result.score.metrics["cider"] > 1
    assert set(result.score.metrics) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "clip_score",
                                         "ref_clip_score"}  # fmt: skip
    assert result.results[3] == {"image_id": 3, "caption": said[3]}
    assert all(torch.equal(a, b) for a, b in zip(before, tower.parameters(), strict=True)) and tower.training
    assert "frozen tower's P4" in result.score.line() and result.score.n_captions == 18


def test_the_same_seed_gives_the_same_floats_and_leaves_the_callers_generator_alone(tmp_path):
    tower, samples = toy.tower(tmp_path / "tok"), world(tmp_path, 2)
    torch.manual_seed(3)
    one = train_captioner(tower, samples, samples, SHORT)
    after = torch.rand(1)
    two = train_captioner(tower, samples, samples, SHORT)
    torch.manual_seed(3)
    assert one.losses == two.losses and one.results == two.results and torch.equal(after, torch.rand(1))
    assert train_captioner(tower, samples, samples, replace(SHORT, seed=1)).losses != one.losses


def test_captions_longer_than_the_decoder_are_cut(tmp_path):
    tower, samples = toy.tower(tmp_path / "tok"), world(tmp_path, 1)
    lexicon, tokens = caption_tokens(tower, samples, 4)
    assert tokens.shape == (6, 4) and lexicon.size > 10
    result = train_captioner(tower, samples, samples, replace(SHORT, longest=4))
    assert all(len(tower.tokenizer.clean(text).split()) <= 3 for text in (row["caption"] for row in result.results))


def test_an_unreadable_picture_is_passed_over_in_training_only(tmp_path):
    tower, samples = toy.tower(tmp_path / "tok"), world(tmp_path, 2)
    (tmp_path / "val").mkdir()
    val = world(tmp_path / "val", 1)
    samples.paths[0].write_bytes(b"no picture")
    short = replace(SHORT, extraction=Extraction(level="P5", bad_budget=0.001))
    result = train_captioner(tower, samples, val, short)
    assert {"1 unreadable training images passed over", "10 training captions"} <= set(result.score.notes)
    with pytest.raises(DataError, match="evaluation needs every image"):
        train_captioner(tower, val, samples, short)


def test_what_java_cannot_run_is_said_and_has_no_figure(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    samples = world(tmp_path, 1)
    score = captions.score_captions([texts[0] for texts in samples.captions[:2]] + [""], samples, "given captions")
    assert not {"meteor", "spice"} & set(score.metrics) and 0 < score.metrics["bleu_4"] < 1
    assert "1 empty captions" in score.notes and any("meteor not run: java" in note for note in score.notes)


def test_image_ids_are_cocos_numbers_where_names_hold_them():
    assert captions.image_ids(["391895", "42"]) == [391895, 42]
    assert captions.image_ids(["COCO_val2014_000000391895.jpg", "COCO_val2014_000000000042.jpg"]) == [391895, 42]
    for names in (["dog.jpg", "cat.jpg"], ["a_1.jpg", "b_1.jpg"], ["1.jpg", "dog.jpg"]):
        assert captions.image_ids(names) == names


def test_a_result_file_is_read_back_in_the_order_of_the_images(tmp_path):
    write_results(tmp_path / "r.json", captions.results_of(["“naïve” 東京", "b"], ["7", "3"]))
    assert captions.read_results(tmp_path / "r.json", ["3", "7"]) == ["b", "“naïve” 東京"]


@pytest.mark.parametrize(
    "rows, said",
    [
        ([{"image_id": 1, "caption": "a"}] * 2, "1 ids occur more than once (1); 1 ids have no caption (2)"),
        ([{"image_id": k, "caption": "a"} for k in (1, 2, 3)], "1 ids are not images of the split (3)"),
        ([{"image_id": 1, "caption": "a"}, {"image_id": 2}], "entry 1 is not {image_id, caption}"),
        ({}, "list of {image_id, caption}"),
        ("torn", "broken JSON at line 1, column 3"),
    ],
)
def test_a_wrong_result_file_is_one_line_that_says_what_is_wrong(tmp_path, rows, said):
    path = tmp_path / "r.json"
    path.write_text("[{" if rows == "torn" else json.dumps(rows))
    with pytest.raises(DataError) as error:
        captions.read_results(path, ["1", "2"])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_settings_and_data_that_cannot_be_are_refused(tmp_path):
    for wrong in ({"longest": 2}, {"beams": 0}, {"fitting": Fitting(batch=0)}, {"extraction": Extraction("final")}):
        with pytest.raises(UsageError):
            Settings(**wrong)
    tower, samples = toy.tower(tmp_path / "tok"), world(tmp_path, 1)
    with pytest.raises(DataError, match="needs images with captions"):
        train_captioner(tower, replace(samples, captions=((),) * 3), samples, FAST)
