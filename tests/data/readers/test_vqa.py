"""VQA v2: questions with their ten answers and images, and one-line errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.readers import open_questions, open_samples
from data.written import ASKED, truth, vqa
from pictures import config, picture


def test_questions_meet_their_answers_and_images(tmp_path: Path) -> None:
    path = vqa(tmp_path)
    found = open_questions(str(path), config(path))
    assert found.ids == (10, 20) and found.image_ids == (1, 2) and found.questions == ("Is it 1?", "Is it 2?")
    assert found.answers[0] == ("Yes",) * 7 + ("no",) * 3 and found.answered and not found.notes
    assert found.question_types == ("is it",) * 2 and found.answer_types == ("yes/no",) * 2
    assert [p.name for p in found.paths] == ["COCO_val2014_000000000001.jpg", "COCO_val2014_000000000002.jpg"]
    part = found.subset(np.array([1]))
    assert part.ids == (20,) and part.paths == found.paths[1:] and len(part) == 1


@pytest.mark.parametrize("place", ["", "v2_mscoco_val2014_annotations.json"])
def test_the_folder_and_the_annotations_lead_to_the_questions(tmp_path: Path, place: str) -> None:
    vqa(tmp_path)
    assert open_questions(str(tmp_path / place), config("x")).ids == (10, 20)


def test_images_of_2017_are_found_by_their_number(tmp_path: Path) -> None:
    path = vqa(tmp_path)
    (tmp_path / "val2014").rename(tmp_path / "gone")
    for k in (1, 2):
        picture(tmp_path / "train2017" / f"{k:012d}.jpg")
    assert [p.name for p in open_questions(str(path), config(path)).paths] == ["000000000001.jpg", "000000000002.jpg"]


def test_a_test_split_has_questions_only(tmp_path: Path) -> None:
    path = vqa(tmp_path)
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    found = open_questions(str(path), config(path), answered=False)
    assert found.answers == ((), ()) and not found.answered
    with pytest.raises(DataError, match="answers are not beside it as v2_mscoco_val2014_annotations.json"):
        open_questions(str(path), config(path))


def test_text_alone_needs_no_images_and_may_be_zipped(tmp_path: Path) -> None:
    for name, content in (("q_questions.json.gz", {"questions": ASKED}), ("q_annotations.json.gz", {"annotations": [truth(10), truth(20)]})):  # fmt: skip
        (tmp_path / name).write_bytes(gzip.compress(json.dumps(content).encode()))
    path = tmp_path / "q_questions.json.gz"
    found = open_questions(str(path), config(path), pictures=False)
    assert found.paths == () and found.answered and found.subset(np.array([0])).paths == ()
    with pytest.raises(DataError, match="none of its images.*data.images"):
        open_questions(str(path), config(path))
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataError, match="an incomplete gzip file"):
        open_questions(str(path), config(path), pictures=False)


def test_a_missing_image_and_spare_annotations_are_counted(tmp_path: Path) -> None:
    path = vqa(tmp_path, truths=[truth(10), truth(20, answers=[{"answer": "x"}]), truth(30)])
    (tmp_path / "val2014" / "COCO_val2014_000000000002.jpg").unlink()
    found = open_questions(str(path), config(path))
    assert found.ids == (10,) and found.notes == (
        "1 annotations of questions that are not listed dropped",
        "1 questions have another number of answers than ten",
        "1 questions whose image has no file dropped (first: 'COCO_val2014_000000000002.jpg')",
    )


@pytest.mark.parametrize(
    ("asked", "truths", "words"),
    [
        (None, [truth(10)], r"1 of 2 questions of .* have no answers in it \(first: question_id 20\)"),
        (None, [truth(10), truth(20, answers=[])], "have no answers in it"),
        (None, [truth(10), truth(10)], "question_id 10 occurs twice"),
        (None, [], "lists no question"),
        ([*ASKED, ASKED[0]], None, "question_id 10 occurs twice"),
        ([{"question_id": 1}], [truth(1)], "has no `image_id`"),
        ([{"question_id": "x", "image_id": 1}], None, "question_id is 'x', but must be a whole number"),
        (None, [truth(10), truth(20, answers=7)], "`answers` must be a list"),
        ([], None, "lists no question"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, asked: list | None, truths: list | None, words: str) -> None:
    path = vqa(tmp_path, asked, truths)
    with pytest.raises(DataError, match=words) as caught:
        open_questions(str(path), config(path))
    assert "\n" not in str(caught.value) and caught.value.code == 3


def test_questions_are_no_captions(tmp_path: Path) -> None:
    path = vqa(tmp_path)
    with pytest.raises(DataError, match="holds VQA questions, not captions"):
        open_samples(str(path), config(path))


def test_the_built_in_world_asks_three_kinds_of_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAPKD_DATA", str(tmp_path))
    found = open_questions("scenes:3:val", config("x"))
    assert len(found) == 9 and found.answer_types[:3] == ("yes/no", "number", "other")
    assert all(len(answers) == 10 for answers in found.answers) and found.notes[0].startswith("SYNTHETIC")
    assert found.paths[0] == found.paths[2] != found.paths[3] and all(p.is_file() for p in found.paths)
    with pytest.raises(UsageError, match="single objects, which have no questions"):
        open_questions("scenes:objects:2", config("x"))
