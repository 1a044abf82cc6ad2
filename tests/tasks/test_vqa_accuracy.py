"""The VQA accuracy against the challenge's rules, written down as pairs, loops and digests."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmapkd.core.errors import DataError
from cmapkd.data.questions import Questions
from cmapkd.tasks.result_file import write_results
from cmapkd.tasks.vqa import accuracy as va
from cmapkd.tasks.vqa.results import read_results, results_of

SHARED = Path(os.environ.get("CMAPKD_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
GOLDEN = {
    "The Cat": "cat", "none": "0", "1,000": "1000", "3.5": "3.5", "St. Louis": "st louis", "dont know": "don't know",
    "red/blue": "red blue", "t-shirt": "t shirt", "a.b": "ab", "four thousand": "4 thousand", "theyre": "they're",
    "10%": "10%", "": "", "an": "", "yes!": "yes ", "u.s.a.": "usa", "2.": "2", ".5": ".5", "it's": "it's",
    "1,000 t-shirts": "1000 tshirts", "red, blue": "red blue", "red,blue": "red blue", "a\nb": "b", "Id've": "id've",
    "somebody'd": "somebodyd", "no one": "no 1", "“hi”": "“hi”", "café": "café", "'ow's'at": "'ow's'at",
}  # fmt: skip


def questions(answers, kinds=None, asked=None) -> Questions:
    n = len(answers)
    return Questions(
        "toy", tuple(range(n)), tuple(range(n)), (), ("?",) * n, tuple(asked or ["what"] * n), tuple(kinds or ["other"] * n),
        tuple(map(tuple, answers)),
    )  # fmt: skip


def by_loop(answer, truths, lenient=False):
    """Leave one annotator out, count the others, as the challenge's program does."""
    truths = [t.replace("\n", " ").replace("\t", " ").strip() for t in truths]
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    if lenient or len(set(truths)) > 1:
        truths, answer = [va.normalise(t) for t in truths], va.normalise(answer)
    scores = []
    for left in range(len(truths)):
        others = [t for k, t in enumerate(truths) if k != left]
        scores.append(min(1, sum(t == answer for t in others) / 3))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("raw", GOLDEN)
def test_normalisation_has_every_quirk_of_the_official_program(raw):
    assert va.normalise(raw) == GOLDEN[raw].strip()


def test_the_contractions_are_the_official_table_without_the_two_that_change_nothing():
    text = json.dumps(sorted(va.CONTRACTIONS.items())).encode()
    assert len(va.CONTRACTIONS) == 118
    assert hashlib.sha256(text).hexdigest() == "ab882eb73e1449a3ce01b4c5a72c2e3cf05f573e40bde5d96cc8b8bfda8629bb"


def test_no_more_than_32_periods_are_removed_as_a_flag_is_passed_for_a_count():
    assert va.normalise("x" + "." * 40) == "x" + "." * 8


@pytest.mark.parametrize("matches, share", [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_matches_of_ten_earn_what_the_paper_says(matches, share):
    truths = ["cat"] * matches + [f"dog {k}" for k in range(10 - matches)]
    assert va.answer_accuracy("The cat", truths) == pytest.approx(share)


def test_unanimous_answers_are_compared_raw_officially_and_normalised_leniently():
    assert va.answer_accuracy("yes", ["Yes"] * 10) == 0
    assert va.answer_accuracy("Yes\n", ["Yes"] * 10) == 1
    assert va.answer_accuracy("yes", ["Yes"] * 10, lenient=True) == 1
    assert va.answer_accuracy("yes", ["Yes"] * 9 + ["no"]) == 1


ANSWERS = st.sampled_from(
    ["yes", "Yes", "yes.", "no", "two", "2", "a cat", "cat", "", "1,000", "t-shirt", "t shirt", "é"]
)


@given(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=10), st.booleans())
def test_accuracy_equals_the_loop_for_ties_duplicates_and_garbage(answer, truths, lenient):
    assert va.answer_accuracy(answer, truths, lenient) == pytest.approx(by_loop(answer, truths, lenient))


@given(st.lists(ANSWERS, min_size=1, max_size=10))
def test_what_an_answer_earns_is_its_accuracy_and_nothing_else_earns(truths):
    earned = va.earned(truths)
    assert all(va.answer_accuracy(form, truths) == pytest.approx(score) and score for form, score in earned.items())
    assert all(form in earned or not va.answer_accuracy(form, truths) for form in map(va.normalise, truths))


def test_figures_are_grouped_by_answer_type_and_question_type():
    set_ = questions(
        [["yes"] * 10, ["no"] * 10, ["2"] * 3 + ["3"] * 7], ["yes/no", "yes/no", "number"], ["is", "are", "how many"]
    )
    got = va.vqa_accuracy({0: "yes", 1: "yes", 2: "two"}, set_)
    assert got.metrics == pytest.approx(
        {
            "accuracy": 1.9 / 3, "lenient": 1.9 / 3, "answer/number": 0.9, "answer/yes/no": 0.5, "question/are": 0,
            "question/how many": 0.9, "question/is": 1,
        }
    )  # fmt: skip
    assert got.count == 3


def test_a_result_file_is_written_and_read_back_whatever_its_letters(tmp_path):
    answers = {7: "“naïve” 東京 \u2028 😀", 3: "", 11: "yes\nno"}
    write_results(tmp_path / "r.json", results_of(answers))
    assert read_results(tmp_path / "r.json", [3, 7, 11]) == answers
    assert [row["question_id"] for row in json.loads((tmp_path / "r.json").read_text())] == [3, 7, 11]


@pytest.mark.parametrize(
    "rows, said",
    [
        ([{"question_id": 1, "answer": "a"}] * 2, "1 question (1) answered more than once"),
        ([{"question_id": k, "answer": "a"} for k in (1, 2, 3)], "1 question (3) not among the questions"),
        ([{"question_id": 1, "answer": "a"}], "1 question (2) not answered"),
        ([], "2 questions (1, 2) not answered"),
        ([{"question_id": 1}], "entry 0 is not {question_id, answer}"),
        ([{"question_id": "1", "answer": "a"}], "question_id is an integer"),
        ([{"question_id": 1, "answer": None}], "answer a string"),
        ({"question_id": 1}, "this is a dict"),
        ("torn", "broken JSON at line 1, column 3"),
    ],
)
def test_a_wrong_result_file_is_one_line_that_says_what_is_wrong(tmp_path, rows, said):
    path = tmp_path / "r.json"
    path.write_text("[{" if rows == "torn" else json.dumps(rows))
    with pytest.raises(DataError) as error:
        read_results(path, [1, 2])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_repeated_ids_among_the_questions_and_questions_without_answers_are_named():
    with pytest.raises(DataError, match="more than once among the questions"):
        va.check_ids([1], [1, 1], "toy")
    with pytest.raises(DataError, match="question 0 has no answers"):
        va.vqa_accuracy({0: "a"}, questions([[]]))


needs_real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}; set CMAPKD_SHARED_DATA")


def real_rows() -> list[dict]:
    files = [SHARED / "vqa_v2_60k" / f"vqa_annotations_{split}.json.gz" for split in ("train", "valid", "test")]
    return [row for file in files for row in json.loads(gzip.decompress(file.read_bytes()))["annotations"]]


@needs_real
def test_real_answers_are_normalised_and_scored_as_the_official_program_does():
    """The digest and the figures were taken from GT-Vision-Lab's vqaEval.py (a013f00), read as Python 3."""
    rows = real_rows()
    answers = [[a["answer"] for a in row["answers"]] for row in rows]
    normal = [va.normalise(answer) for answer in sorted({answer for ten in answers for answer in ten})]
    digest = hashlib.sha256(json.dumps(normal).encode()).hexdigest()
    assert len(normal) == 30_806 and digest == "70c641b9f3e83d96195360c23d163526f026860a4780ffb2ee033898d4cbbc5d"
    set_ = questions(answers, [r["answer_type"] for r in rows], [r["question_type"] for r in rows])
    official = ("accuracy", "answer/other", "answer/number", "answer/yes/no", "question/how many", "question/is the")
    for predicted, figures in (
        ([ten[0] for ten in answers], (87.560166667, 78.583, 87.029, 97.0685, 89.148342297, 96.757281553)),
        (["Yes."] * len(rows), (12.440833333, 1.0085, 0.2105, 36.1035, 0.15521819, 33.565533981)),
    ):
        got = va.vqa_accuracy(dict(enumerate(predicted)), set_).metrics
        assert [100 * got[name] for name in official] == pytest.approx(figures, abs=1e-8)


@needs_real
def test_sixty_thousand_real_questions_are_scored_as_the_loop_scores_them():
    rows = real_rows()
    answers = [[a["answer"] for a in row["answers"]] for row in rows]
    rng = random.Random(0)
    predicted = {k: rng.choice(rng.choice(answers) if rng.random() < 0.5 else answers[k]) for k in range(len(rows))}
    set_ = questions(answers, [r["answer_type"] for r in rows], [r["question_type"] for r in rows])
    got = va.vqa_accuracy(predicted, set_)
    expected = [by_loop(predicted[k], answers[k]) for k in range(0, len(rows), 7)]
    assert [va.answer_accuracy(predicted[k], answers[k]) for k in range(0, len(rows), 7)] == pytest.approx(expected)
    assert 0.3 < got.overall <= got.lenient < got.overall + 0.01
    assert set(got.by_answer_type) == {"yes/no", "number", "other"}
