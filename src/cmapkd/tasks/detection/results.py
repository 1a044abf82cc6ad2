"""Detection result files as COCO takes them, [{image_id, category_id, bbox, score}], and their score."""

from __future__ import annotations

import math
from pathlib import Path

from cmapkd.config.suite import ResultData
from cmapkd.core.errors import DataError
from cmapkd.data.boxes import Boxes
from cmapkd.data.readers import open_boxes
from cmapkd.data.readers.text import read_json
from cmapkd.tasks.detection.average_precision import average_precision, installed
from cmapkd.tasks.detection.coco_boxes import coco_truth
from cmapkd.tasks.result_file import data_settings, scored_share
from cmapkd.tasks.score import Score
from cmapkd.tasks.task import Judge


def score_detection_results(results: Path, data: ResultData, judge: Judge | None) -> Score:
    """The score of any number of boxes per image, in pixels of the original images, which are not needed."""
    boxes, rows = scored_share(_boxes(data), data), read_json(results)
    if not boxes.n_boxes:
        raise DataError(f"{data.data}: holds no box, so nothing can be found; give the instances_*.json of the split")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{results}: a result file is a list of {{image_id, category_id, bbox, score}}, this is not")
    try:
        found = average_precision(coco_truth(boxes), rows)
    except DataError as error:
        raise DataError(str(error).replace("results:", f"{results}:", 1)) from None
    return Score(
        "detection", f"result file {results.name}", {k: v for k, v in found.metrics.items() if not math.isnan(v)},
        boxes.name, len(boxes), 0, boxes.fingerprint(),
        notes=(f"{boxes.n_boxes} boxes", f"{len(rows)} results", installed(), *boxes.notes),
    )  # fmt: skip


def _boxes(data: ResultData) -> Boxes:
    """Every listed image; with the files, which the fingerprint covers, where all of them exist.

    For a held-out share the images that have a file, as a head has them.
    """
    listed = open_boxes(data.data, data_settings(data), data.split, pictures=False)
    try:
        seen = open_boxes(data.data, data_settings(data), data.split)
    except DataError:
        return listed
    return seen if data.holdout is not None or len(seen) == len(listed) else listed
