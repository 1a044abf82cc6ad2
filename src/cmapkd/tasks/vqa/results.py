"""VQA result files as the challenge takes them, [{question_id, answer}], and their score."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from cmapkd.config.suite import ResultData
from cmapkd.core.errors import DataError
from cmapkd.data.questions import Questions
from cmapkd.data.readers import open_questions
from cmapkd.tasks.result_file import ResultRow, data_settings, read_rows, scored_share
from cmapkd.tasks.score import Score
from cmapkd.tasks.task import Judge
from cmapkd.tasks.vqa.accuracy import check_ids, some_questions, vqa_accuracy


def score_vqa_results(results: Path, data: ResultData, judge: Judge | None) -> Score:
    """The score of one answer for every question. The images are not needed."""
    questions = scored_share(_questions(data), data)
    accuracy = vqa_accuracy(read_results(results, questions.ids), questions)
    return Score(
        "vqa", f"result file {results.name}", accuracy.metrics, questions.name, len(set(questions.image_ids)), 0,
        questions.fingerprint(), notes=(f"{len(questions)} questions", *questions.notes),
    )  # fmt: skip


def results_of(predicted: Mapping[int, str]) -> list[ResultRow]:
    """The challenge's result list, by question id."""
    return [{"question_id": key, "answer": predicted[key]} for key in sorted(predicted)]


def read_results(path: Path, ids: Iterable[int]) -> dict[int, str]:
    """Answers by question id of a result file that has to answer exactly `ids`. Raises DataError in one line."""
    rows = read_rows(path, "{question_id, answer}")
    found: dict[int, str] = {}
    again: list[int] = []
    for place, row in enumerate(rows):
        if not isinstance(row, dict) or not {"question_id", "answer"} <= set(row):
            raise DataError(f"{path}: entry {place} is not {{question_id, answer}}: {str(row)[:80]}")
        key, answer = row["question_id"], row["answer"]
        if type(key) is not int or not isinstance(answer, str):
            raise DataError(f"{path}: entry {place}: question_id is an integer, answer a string; not {str(row)[:80]}")
        if key in found:
            again.append(key)
        found[key] = answer
    if again:
        raise DataError(f"{path}: {some_questions(again)} answered more than once; keep one answer a question")
    check_ids(found, ids, str(path))
    return found


def _questions(data: ResultData) -> Questions:
    """Every question, without the images; for a held-out share those whose image file exists, as a head has them."""
    if data.holdout is not None:
        with contextlib.suppress(DataError):
            return open_questions(data.data, data_settings(data), data.split)
    return open_questions(data.data, data_settings(data), data.split, pictures=False)
