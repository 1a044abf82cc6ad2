"""`cmapkd score`: a result file from anywhere, in the format that the challenges take, against the truth."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.config.suite import ResultData
from cmapkd.core import fsio
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.boxes import Boxes
from cmapkd.data.holdout import Data, hold_out
from cmapkd.data.questions import Questions
from cmapkd.data.readers import open_boxes, open_questions, open_samples
from cmapkd.data.readers.text import read_json
from cmapkd.evaluation.evaluate import open_model
from cmapkd.tasks.captioning.probe import read_results as read_captions
from cmapkd.tasks.captioning.probe import score_captions
from cmapkd.tasks.detection.average_precision import average_precision, installed
from cmapkd.tasks.detection.coco_boxes import coco_truth
from cmapkd.tasks.score import Score
from cmapkd.tasks.vqa.accuracy import read_results as read_answers
from cmapkd.tasks.vqa.accuracy import vqa_accuracy


def score_vqa(results: Path, data: ResultData, judge: str | None) -> Score:
    """[{question_id, answer}], one for every question. The images are not needed."""
    questions = held(listed_questions(data), data)
    accuracy = vqa_accuracy(read_answers(results, questions.ids), questions)
    return Score(
        "vqa", f"result file {results.name}", accuracy.metrics, questions.name, len(set(questions.image_ids)), 0,
        questions.fingerprint(), notes=(f"{len(questions)} questions", *questions.notes),
    )  # fmt: skip


def score_detection(results: Path, data: ResultData, judge: str | None) -> Score:
    """[{image_id, category_id, bbox, score}], any number an image, in pixels of the original images, which are not needed."""
    boxes, rows = held(listed_boxes(data), data), read_json(results)
    if not boxes.n_boxes:
        raise DataError(
            f"{data.data}: holds no box, so that nothing can be found; give the instances_*.json of the split"
        )
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{results}: a result file is a list of {{image_id, category_id, bbox, score}}, this is not")
    try:
        found = average_precision(coco_truth(boxes), rows)
    except DataError as error:
        raise DataError(str(error).replace("results:", f"{results}:", 1)) from None
    notes = (f"{boxes.n_boxes} boxes", f"{len(rows)} results", installed())
    return Score(
        "detection", f"result file {results.name}", {k: v for k, v in found.to_json().items() if v is not None and k != "per_class"},
        boxes.name, len(boxes), 0, boxes.fingerprint(), notes=(*notes, *boxes.notes),
    )  # fmt: skip


def listed_questions(data: ResultData) -> Questions:
    """Every question, without the images; for a held-out share those whose image is there, as a head has them."""
    if data.holdout is not None:
        with contextlib.suppress(DataError):
            return open_questions(data.data, _settings(data), data.split)
    return open_questions(data.data, _settings(data), data.split, pictures=False)


def listed_boxes(data: ResultData) -> Boxes:
    """Every listed image; with the files, which the fingerprint sees, where all of them are there.

    For a held-out share the images that are there, as a head has them.
    """
    listed = open_boxes(data.data, _settings(data), data.split, pictures=False)
    try:
        seen = open_boxes(data.data, _settings(data), data.split)
    except DataError:
        return listed
    return seen if data.holdout is not None or len(seen) == len(listed) else listed


def held(given: Data, data: ResultData) -> Data:
    """All of it, or the share that `train-head --val holdout` scores: `hold_out` of the same data, and so the same images."""
    return given if data.holdout is None else hold_out(given, data.holdout)[1]


def score_captioning(results: Path, data: ResultData, judge: str | None) -> Score:
    """[{image_id, caption}], one for every image. judge: a model for CLIPScore."""
    samples = held(open_samples(data.data, _settings(data), data.split), data)
    try:
        captions = read_captions(results, samples.ids)
    except DataError as error:  # an image that was dropped is why its caption is of none
        raise DataError("; ".join((str(error), *samples.notes))) from None
    return score_captions(
        captions, samples, f"result file {results.name}", None if judge is None else open_model(judge)
    )


RESULTS: dict[str, Callable[[Path, ResultData, str | None], Score]] = {
    "vqa": score_vqa,
    "detection": score_detection,
    "captioning": score_captioning,
}


def score_results(
    task: str, results: Path, data: ResultData, judge: str | None = None, out: Path | None = None
) -> None:
    """Print the figures of a result file; `out` also keeps them as JSON. Raises DataError in one line for a file that
    cannot be scored: unknown, repeated or missing ids, or numbers that are none."""
    if judge is not None and task != "captioning":
        raise UsageError(f"score {task} --judge: only captions are judged by a model; drop it")
    score = RESULTS[task](results, data, judge)
    print(score.line())
    if out is not None:
        fsio.write_json(out, score.to_json())


def _settings(data: ResultData) -> DataConfig:
    return DataConfig(train=data.data, images=data.images)
