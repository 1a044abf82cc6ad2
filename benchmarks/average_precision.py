"""Ratio e2: COCO average precision of one result file, pycocotools with its usual calls against ours."""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.contenders import ratio_row
from cmapkd.tasks.detection.average_precision import average_precision, installed

QUICK, FULL = (200, 7400), (2000, 74000)  # images, boxes found
TARGETS = {QUICK: 3.0, FULL: 4.0}  # with few images the fixed cost per class and size weighs more
CLASSES, TRUE = 80, 7.4  # COCO: 80 classes, 7.4 boxes an image
NAMES = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")


def world(images: int, boxes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(truth, results): true boxes in each image, one in 50 a crowd; half of the results near one, half anywhere."""
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    per_image = boxes // images
    for image in range(images):
        mine = []
        for _ in range(max(1, rng.poisson(TRUE))):
            w, h = np.exp(rng.uniform(np.log(8), np.log(300), 2))
            box = [float(v) for v in (rng.uniform(0, 640 - w), rng.uniform(0, 480 - h), w, h)]
            mine.append({
                "id": len(annotations) + len(mine) + 1, "image_id": image, "category_id": int(rng.integers(CLASSES)) + 1,
                "bbox": box, "area": 0.6 * box[2] * box[3], "iscrowd": int(rng.random() < 0.02),
            })  # fmt: skip
        annotations += mine
        for k in range(per_image):
            near = mine[int(rng.integers(len(mine)))]
            close = k % 2 == 0
            box = near["bbox"] * np.exp(rng.normal(0, 0.1, 4)) if close else rng.uniform(0, 300, 4)
            label = near["category_id"] if close else int(rng.integers(CLASSES)) + 1
            score = float(rng.beta(4, 2) if close else rng.beta(1, 4))
            results.append(
                {"image_id": image, "category_id": label, "bbox": [float(v) for v in box], "score": round(score, 4)}
            )
    truth = {
        "images": [{"id": k, "width": 640, "height": 480} for k in range(images)],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)],
    }
    return truth, results


def by_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    """The nine metrics as in its own demo; its −1 is our NaN."""
    coco, evaluation = (importlib.import_module(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    with contextlib.redirect_stdout(io.StringIO()):
        true = coco.COCO()
        true.dataset = truth
        true.createIndex()
        run = evaluation.COCOeval(true, true.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return {
        name: math.nan if value == -1 else float(value) for name, value in zip(NAMES, run.stats.tolist(), strict=False)
    }


def seconds(
    rounds: int, contenders: dict[str, Callable[[Any, Any], Any]], given: tuple[Any, Any]
) -> dict[str, list[float]]:
    """CPU seconds of each contender, A/B/A/B, each on its own copy of the data; copying is not timed."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            mine = copy.deepcopy(given)
            start = time.process_time()
            contender(*mine)
            taken[name].append(time.process_time() - start)
    return taken


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Rows of pycocotools over ours, and the largest difference of a metric.

    Raises UsageError or ImportError where faster-coco-eval or pycocotools is not installed.
    """
    sizes = QUICK if quick else FULL
    truth, results = world(*sizes)
    theirs, ours = by_pycocotools(*copy.deepcopy((truth, results))), average_precision(truth, results).metrics
    apart = max(abs(theirs[name] - ours[name]) for name in NAMES)
    taken = seconds(3 if quick else 2, {"pycocotools": by_pycocotools, "ours": average_precision}, (truth, results))
    best = {name: min(values) for name, values in taken.items()}
    detail = f"{sizes[0]} images, {len(results)} boxes, {installed()}, CPU s min (median): " + ", ".join(
        f"{name} {min(values):.2f} ({statistics.median(values):.2f})" for name, values in taken.items()
    )
    figures = ", ".join(f"{name} {ours[name]:.4f}" for name in NAMES[:3])
    return [
        ratio_row(
            "e2", "average precision: pycocotools / ours", best["pycocotools"] / best["ours"], TARGETS[sizes], ">=", detail
        ),
        ratio_row(
            "e2", "average precision: largest difference of a figure", apart, 1e-12, "<=", f"{len(NAMES)} figures; {figures}"
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="2000 images, 74000 boxes (about a minute)")
    for found in run(quick=not parser.parse_args().full):
        print(json.dumps(found, ensure_ascii=False))
