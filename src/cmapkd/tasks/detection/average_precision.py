"""COCO average precision of boxes, by faster-coco-eval or pycocotools; figures without true objects are NaN, never −1."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmapkd.core.errors import DataError, UsageError

# package → (module of COCO, module of the evaluation, its class), the faster first.
BACKENDS = {
    "faster-coco-eval": ("faster_coco_eval.core.coco", "faster_coco_eval.core.faster_eval_api", "COCOeval_faster"),
    "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
}
ALL, SMALL, MEDIUM, LARGE = range(4)  # COCO's areas in pixels of the original image: up to 32², to 96², above


@dataclass(frozen=True)
class Precision:
    """Fractions in [0, 1]; NaN for a figure of objects that the truth does not have.

    metrics: mAP (mean over IoU 0.50:0.05:0.95 and classes), AP50, AP75, AP_small, AP_medium, AP_large (by true area) and
    AR1, AR10, AR100 (recall at that many boxes an image). per_class: mAP of each class by its name.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]


def average_precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], backend: str | None = None
) -> Precision:
    """COCO's figures for `results` against `truth`, both in pixels of the original images.

    truth: what instances_*.json holds: images [{id}], annotations [{image_id, category_id, bbox, area?, iscrowd?}] and
    categories [{id, name}]; every image counts, with or without annotations. results: [{image_id, category_id, bbox,
    score}]. bbox: left, top, width, height. backend: one of BACKENDS (default: the first that is installed).
    Annotations get ids of their own, because pycocotools takes a match with id 0 for none.
    Raises DataError for a result that cannot be scored, UsageError where no backend is installed.
    """
    coco, evaluation = _load(backend or installed())
    boxes = check_results(truth, results)
    areas = boxes[:, 2] * boxes[:, 3]
    rows = zip(results, boxes.tolist(), areas.tolist(), strict=True)
    head = {
        "images": [{"id": image["id"]} for image in truth["images"]],
        "categories": [{"id": category["id"], "name": category["name"]} for category in truth["categories"]],
    }
    true = [
        {
            "id": k, "image_id": a["image_id"], "category_id": a["category_id"], "bbox": list(a["bbox"]),
            "area": a.get("area", a["bbox"][2] * a["bbox"][3]), "iscrowd": int(a.get("iscrowd", 0)),
        }
        for k, a in enumerate(truth["annotations"], 1)
    ]  # fmt: skip
    found = [
        {
            "id": k, "image_id": r["image_id"], "category_id": r["category_id"], "bbox": box, "area": area,
            "iscrowd": 0, "score": float(r["score"]),
        }
        for k, (r, box, area) in enumerate(rows, 1)
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        run = evaluation(_indexed(coco, head, true), _indexed(coco, head, found), "bbox")
        run.evaluate()
        run.accumulate()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    return _figures(
        np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"]), [names[i] for i in run.params.catIds]
    )


def check_results(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """float64 [n, 4], the results' boxes. Raises DataError that names the first result that cannot be scored."""
    images, categories = {i["id"] for i in truth["images"]}, {c["id"] for c in truth["categories"]}
    for place, result in enumerate(results):
        missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in result]
        if missing:
            raise _bad(place, f"has no {missing[0]}; a result is {{image_id, category_id, bbox, score}}")
        if not all(isinstance(result[key], int | str) for key in ("image_id", "category_id")):
            raise _bad(
                place, f"image_id {result['image_id']!r}, category_id {result['category_id']!r}: an id is a number"
            )
        if result["image_id"] not in images:
            raise _bad(place, f"image_id {result['image_id']!r} is not among the {len(images)} images of the truth")
        if result["category_id"] not in categories:
            raise _bad(
                place,
                f"category_id {result['category_id']!r} is not among the {len(categories)} categories of the truth; "
                "COCO's ids are sparse, so write the ids of the file and no positions",
            )
        if not _numbers(result):
            raise _bad(
                place,
                f"bbox {result['bbox']!r:.60}, score {result['score']!r:.40}: "
                "a bbox is four numbers (left, top, width, height) and a score is one",
            )
    boxes = np.array([result["bbox"] for result in results], dtype=np.float64).reshape(len(results), 4)
    scores = np.array([result["score"] for result in results], dtype=np.float64)
    for wrong, rule in (
        (~np.isfinite(boxes).all(1), "its bbox is not finite"),
        (~np.isfinite(scores), "its score is not finite"),
        ((boxes[:, 2:] < 0).any(1), "its bbox has a negative side; a bbox is left, top, width, height"),
    ):
        if wrong.any():
            place = int(wrong.argmax())
            raise _bad(place, f"{rule}: bbox {results[place]['bbox']}, score {results[place]['score']}")
    return boxes


def _numbers(result: Mapping[str, Any]) -> bool:
    box, numbers = result["bbox"], int | float | np.number
    four = isinstance(box, Sequence | np.ndarray) and len(box) == 4 and all(isinstance(v, numbers) for v in box)
    return four and isinstance(result["score"], numbers)


def installed() -> str:
    """The first backend that can be imported. Raises UsageError where there is none."""
    for name, (module, _, _) in BACKENDS.items():
        if importlib.util.find_spec(module.split(".")[0]) is not None:
            return name
    raise UsageError("COCO average precision needs faster-coco-eval or pycocotools: pip install cmapkd[detection]")


def _load(backend: str) -> tuple[Any, Any]:
    if backend not in BACKENDS:
        raise UsageError(f"backend '{backend}' does not exist; there are: {', '.join(BACKENDS)}")
    index, evaluation, name = BACKENDS[backend]
    try:
        return importlib.import_module(index).COCO, getattr(importlib.import_module(evaluation), name)
    except ImportError as error:
        raise UsageError(f"{backend} cannot be imported ({error}): pip install cmapkd[detection]") from None


def _indexed(coco: Any, head: dict[str, Any], annotations: list[dict[str, Any]]) -> Any:
    made = coco()
    made.dataset = {**head, "annotations": annotations}
    made.createIndex()
    return made


def _figures(precision: np.ndarray, recall: np.ndarray, names: list[str]) -> Precision:
    """precision: [IoU, recall, class, area, boxes]; recall: [IoU, class, area, boxes]; −1 where there is no truth."""
    named = names if len(set(names)) == len(names) else [f"{name} ({k})" for k, name in enumerate(names)]
    return Precision(
        {
            "mAP": _mean(precision[:, :, :, ALL, -1]),
            "AP50": _mean(precision[0, :, :, ALL, -1]),
            "AP75": _mean(precision[5, :, :, ALL, -1]),
            "AP_small": _mean(precision[:, :, :, SMALL, -1]),
            "AP_medium": _mean(precision[:, :, :, MEDIUM, -1]),
            "AP_large": _mean(precision[:, :, :, LARGE, -1]),
            **{f"AR{n}": _mean(recall[:, :, ALL, k]) for k, n in enumerate((1, 10, 100))},
        },
        {name: _mean(precision[:, :, k, ALL, -1]) for k, name in enumerate(named)},
    )


def _mean(values: np.ndarray) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else math.nan


def _bad(place: int, reason: str) -> DataError:
    return DataError(f"results: entry {place} {reason}")
