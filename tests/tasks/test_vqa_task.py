"""VQA from pictures to figures: a head is learnt on a frozen tower, deterministically, and bad data is one line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import toy
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.questions import Questions
from cmapkd.tasks.frozen_features import Extraction, image_features
from cmapkd.tasks.frozen_probe import Fitting, drawn, rate
from cmapkd.tasks.vqa.accuracy import vqa_accuracy
from cmapkd.tasks.vqa.features import text_features
from cmapkd.tasks.vqa.head import Vocabulary
from cmapkd.tasks.vqa.probe import Settings, answer_questions, ceiling, fingerprint, train_vqa

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
FAST = Settings(
    width=32, dropout=0.0, fitting=Fitting(epochs=60, batch=16, lr=5e-3), extraction=Extraction(level="P5", batch=5)
)


def world(folder, per=4) -> Questions:
    """Plain pictures of three colours, asked two questions each: what colour, and is it red."""
    rows = []
    for k in range(per):
        for colour, rgb in COLOURS.items():
            path = folder / f"{colour}{k}.png"
            noise = np.random.default_rng(k).integers(-20, 20, (32, 32, 3))
            Image.fromarray((np.array(rgb) + noise).clip(0, 255).astype(np.uint8)).save(path)
            rows.append((path, "what color is the tree?", colour, "other"))
            rows.append((path, "is the small house red?", "yes" if colour == "red" else "no", "yes/no"))
    paths, asked, answers, kinds = zip(*rows, strict=True)
    ids = tuple(range(100, 100 + len(rows)))
    return Questions(
        "colours", ids, ids, paths, asked, tuple(t.split()[0] for t in asked), kinds, tuple((a,) * 10 for a in answers)
    )


def answered(result) -> dict[int, str]:
    return {row["question_id"]: row["answer"] for row in result.results}


@pytest.mark.parametrize("head", ["fusion", "coattention"])
def test_a_head_learns_to_answer_from_image_and_question(tmp_path, head):
    tower, asked = toy.tower(tmp_path / "tok"), world(tmp_path)
    before = [p.clone() for p in tower.parameters()]
    val = asked.subset(np.array([21, 2, 16, 5, 0, 19, 3, 10, 23, 8]))  # rows of pictures and questions in another order
    result = train_vqa(tower, asked, val, replace(FAST, head=head))
    assert result.score.metrics["accuracy"] > 0.9 and result.score.metrics["ceiling"] == 1
    assert set(result.words["answers"]) == {"red", "green", "blue", "yes", "no"}
    assert vqa_accuracy(answered(result), val).metrics.items() <= result.score.metrics.items()
    assert all(torch.equal(a, b) for a, b in zip(before, tower.parameters(), strict=True)) and tower.training
    assert f"closed-set {head} head" in result.score.line() and result.score.n_images == len(set(val.paths))


def test_the_same_seed_gives_the_same_floats_and_leaves_the_callers_generator_alone(tmp_path):
    tower, asked = toy.tower(tmp_path / "tok"), world(tmp_path, 2)
    short = replace(FAST, dropout=0.1, fitting=Fitting(epochs=2, batch=5))
    torch.manual_seed(3)
    one = train_vqa(tower, asked, asked, short)
    drawn_after = torch.rand(1)
    two = train_vqa(tower, asked, asked, short)
    torch.manual_seed(3)
    assert one.losses == two.losses and one.results == two.results and torch.equal(drawn_after, torch.rand(1))
    assert train_vqa(tower, asked, asked, replace(short, seed=1)).losses != one.losses


def test_a_split_without_answers_is_answered_but_not_scored(tmp_path):
    tower, asked = toy.tower(tmp_path / "tok"), world(tmp_path, 1)
    hidden = replace(asked, answers=((),) * len(asked))
    short = replace(FAST, fitting=Fitting(epochs=1, batch=5))
    result = train_vqa(tower, asked, asked, short)
    assert answer_questions(tower, result.head, Vocabulary(tuple(result.words["answers"])), hidden, short) == answered(
        result
    )
    with pytest.raises(DataError, match="have no answers"):
        train_vqa(tower, asked, hidden, short)


def test_questions_whose_answer_is_not_in_the_vocabulary_are_left_out_and_counted(tmp_path):
    tower, asked = toy.tower(tmp_path / "tok"), world(tmp_path, 2)
    result = train_vqa(tower, asked, asked, replace(FAST, answers=1, fitting=Fitting(epochs=1, batch=2)))
    assert result.words["answers"] == ["no"] and set(answered(result).values()) == {"no"}
    assert any("8 training questions without an answer" in note for note in result.score.notes)
    assert result.score.metrics["accuracy"] == result.score.metrics["ceiling"] == pytest.approx(1 / 3)


def test_an_unreadable_picture_is_passed_over_in_training_only(tmp_path):
    tower, asked = toy.tower(tmp_path / "tok"), world(tmp_path, 2)
    (tmp_path / "val").mkdir()
    val = world(tmp_path / "val", 1)
    asked.paths[0].write_bytes(b"no picture")
    short = replace(FAST, fitting=Fitting(epochs=1, batch=4), extraction=Extraction(bad_budget=0.001))
    result = train_vqa(tower, asked, val, short)
    assert "1 unreadable training images passed over" in result.score.notes
    with pytest.raises(DataError, match="evaluation needs every image"):
        train_vqa(tower, val, asked, short)
    asked.paths[2].write_bytes(b"")
    with pytest.raises(DataError, match="2 unreadable images, the budget is 1"):
        train_vqa(tower, asked, val, short)


def test_questions_read_without_their_images_are_refused(tmp_path):
    tower, asked = toy.tower(tmp_path / "tok"), world(tmp_path, 1)
    with pytest.raises(DataError, match="read without their images"):
        train_vqa(tower, replace(asked, paths=()), asked, FAST)


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"head": "bilinear"}, {"answers": 0}, {"width": 30}, {"fitting": Fitting(epochs=0)},
                  {"head": "coattention", "extraction": Extraction("final")}):  # fmt: skip
        with pytest.raises(UsageError):
            Settings(**wrong)


def test_features_of_a_picture_do_not_depend_on_its_batch_and_are_computed_once(tmp_path):
    tower, asked = toy.tower(tmp_path / "tok"), world(tmp_path, 2)
    for level, shape in (("final", (24,)), ("P2", (16, 32)), ("P5", (6, 32))):
        one = image_features(tower, asked.paths, Extraction(level, batch=1), "toy")
        many = image_features(tower, asked.paths, Extraction(level, batch=64), "toy")
        assert one.rows.shape == (6, *shape) and one.rows.dtype == torch.float16
        assert torch.allclose(one.rows.float(), many.rows.float(), atol=2e-3)
        assert torch.equal(one.place, torch.arange(6).repeat_interleave(2))


def test_features_that_do_not_fit_are_refused_before_any_is_computed(tmp_path):
    tower = toy.tower(tmp_path)
    with pytest.raises(UsageError, match="more than ram_mb 1"):
        image_features(tower, [tmp_path / f"{k}.png" for k in range(10_000)], Extraction("P4", ram_mb=1), "toy")
    with pytest.raises(UsageError, match="no image level 'P9'"):
        image_features(tower, [tmp_path / "0.png"], Extraction("P9"), "toy")


def test_an_empty_question_has_a_token_to_attend_to(tmp_path):
    tower = toy.tower(tmp_path)
    words, mask = text_features(tower, ["", "red star"], True, 8)
    assert words.shape == (2, 9, 32) and mask.sum(1).tolist() == [1, 3] and words.isfinite().all()


def test_every_epoch_draws_each_position_once():
    order = torch.cat([drawn(step, 4, 6, seed=5) for step in range(6)])
    assert [sorted(order[k : k + 6].tolist()) for k in range(0, 24, 6)] == [list(range(6))] * 4
    assert order[:6].tolist() != order[6:12].tolist()


def test_the_rate_rises_to_its_peak_and_falls_to_nothing():
    assert [rate(x, 0.1) for x in (0.05, 0.1, 0.55, 1.0)] == pytest.approx([0.5, 1, 0.5, 0])
    assert rate(0.0, 0.0) == 1


def test_the_ceiling_is_what_the_best_known_answer_earns(tmp_path):
    asked = world(tmp_path, 1)
    assert ceiling(Vocabulary(("no", "red")), asked) == pytest.approx(3 / 6)


def test_the_fingerprint_changes_with_answers_and_pictures(tmp_path):
    asked = world(tmp_path, 1)
    before = fingerprint(asked)
    assert before != fingerprint(replace(asked, answers=(("maybe",) * 10, *asked.answers[1:])))
    asked.paths[0].write_bytes(b"another")
    assert before != fingerprint(asked)
