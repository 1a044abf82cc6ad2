"""COCO average precision against a loop written from its definition, for predictions of every kind."""

from __future__ import annotations

import functools
import importlib.util
import math
import sys

import numpy as np
import pytest

from cmapkd.core.errors import DataError, UsageError
from cmapkd.tasks.detection import average_precision as ap

SIZES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
INSTALLED = [name for name, (module, _, _) in ap.BACKENDS.items() if importlib.util.find_spec(module.split(".")[0])]
needs_one = pytest.mark.skipif(not INSTALLED, reason="neither faster-coco-eval nor pycocotools is installed")
backends = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=pytest.mark.skipif(name not in INSTALLED, reason=f"{name} is not installed"))
        for name in ap.BACKENDS
    ],
)


def overlap(box, true, crowd):
    """Intersection over union; over the box's own area where the true one is a crowd."""
    width = min(box[0] + box[2], true[0] + true[2]) - max(box[0], true[0])
    height = min(box[1] + box[3], true[1] + true[3]) - max(box[1], true[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (box[2] * box[3] if crowd else box[2] * box[3] + true[2] * true[3] - shared or 1) if shared else 0


def judge(truths, found, area, threshold, most):
    """[(score, hit, ignored)] of one image and class, and how many truths count; COCO's greedy matching."""
    aside = [bool(t.get("iscrowd", 0)) or not area[0] <= t["area"] <= area[1] for t in truths]
    order = sorted(range(len(truths)), key=lambda k: aside[k])
    taken, judged = set(), []
    for box in sorted(found, key=lambda f: -f["score"])[:most]:
        best, at = None, min(threshold, 1 - 1e-10)
        for k in order:
            if k in taken and not truths[k].get("iscrowd", 0):
                continue
            if best is not None and not aside[best] and aside[k]:
                break
            iou = overlap(box["bbox"], truths[k]["bbox"], truths[k].get("iscrowd", 0))
            if iou >= at:
                best, at = k, iou
        size = box["bbox"][2] * box["bbox"][3]
        if best is None:
            judged.append((box["score"], False, not area[0] <= size <= area[1]))
        else:
            taken.add(best)
            judged.append((box["score"], True, aside[best]))
    return judged, aside.count(False)


@functools.cache
def expected(sizes, kind):
    truth = world(sizes=sizes)
    return naive(truth, guesses(truth, kind))


def naive(truth, results):
    """The nine figures by loops: 101 recall points, ten thresholds, four sizes."""
    images = sorted(i["id"] for i in truth["images"])
    curves, recalls = {}, {}
    for category in truth["categories"]:
        for threshold in np.linspace(0.5, 0.95, 10):
            for name, area in SIZES.items():
                for most in (1, 10, 100):
                    rows, positives = [], 0
                    for image in images:
                        mine = [
                            [x for x in xs if (x["image_id"], x["category_id"]) == (image, category["id"])]
                            for xs in (truth["annotations"], results)
                        ]
                        judged, count = judge(*mine, area, threshold, most)
                        rows += judged
                        positives += count
                    if not positives:
                        continue
                    rows = [row for row in sorted(rows, key=lambda r: -r[0]) if not row[2]]
                    hits = np.cumsum([hit for _, hit, _ in rows]) if rows else np.zeros(0)
                    recall = hits / positives
                    precision = hits / np.arange(1, len(rows) + 1)
                    for k in range(len(precision) - 1, 0, -1):
                        precision[k - 1] = max(precision[k - 1], precision[k])
                    points = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
                    key = (round(threshold, 2), name, most, category["id"])
                    curves[key] = [precision[p] if p < len(precision) else 0.0 for p in points]
                    recalls[key] = recall[-1] if len(recall) else 0.0

    def mean(table, **wanted):
        keys = ("threshold", "name", "most", "category")
        kept = [
            v for key, v in table.items() if all(dict(zip(keys, key, strict=True))[k] == w for k, w in wanted.items())
        ]
        return float(np.mean(kept)) if kept else math.nan

    return {
        "mAP": mean(curves, name="all", most=100),
        "AP50": mean(curves, name="all", most=100, threshold=0.5),
        "AP75": mean(curves, name="all", most=100, threshold=0.75),
        **{f"AP_{size}": mean(curves, name=size, most=100) for size in ("small", "medium", "large")},
        **{f"AR{most}": mean(recalls, name="all", most=most) for most in (1, 10, 100)},
    }, {c["name"]: mean(curves, name="all", most=100, category=c["id"]) for c in truth["categories"]}


def world(seed=0, images=6, crowd=True, sizes=(8, 300)):
    """Images without truth, a class without truth, sparse category ids, an annotation id 0, areas below the boxes'."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(images - 1):
        for _ in range(rng.integers(1, 5)):
            w, h = np.exp(rng.uniform(*np.log(sizes), 2))
            annotations.append({
                "id": len(annotations), "image_id": 10 * image, "category_id": int(rng.choice([3, 7, 90])),
                "bbox": [float(v) for v in (*rng.uniform(0, 200, 2), w, h)], "area": float(w * h * rng.uniform(0.5, 1)),
                "iscrowd": int(crowd and rng.random() < 0.2),
            })  # fmt: skip
    names = {3: "cat", 7: "dog", 41: "nobody", 90: "cow"}
    return {
        "images": [{"id": 10 * k, "width": 600, "height": 600} for k in range(images)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in names.items()],
    }


def guesses(truth, kind, seed=1):
    rng = np.random.default_rng(seed)
    keys = ("image_id", "category_id", "bbox")
    perfect = [
        {**{k: a[k] for k in keys}, "score": float(rng.random())} for a in truth["annotations"] if not a["iscrowd"]
    ]

    def shifted(scale):
        return [
            {**r, "bbox": [float(v) for v in np.array(r["bbox"]) * np.exp(rng.normal(0, scale, 4))]} for r in perfect
        ]

    garbage = [
        {"image_id": int(rng.choice([i["id"] for i in truth["images"]])), "category_id": int(rng.choice([3, 7, 41, 90])),
         "bbox": [float(v) for v in rng.uniform(0, 300, 4)], "score": float(rng.random())} for _ in range(60)
    ]  # fmt: skip
    inside = [
        {**{k: a[k] for k in keys}, "score": 0.99, "bbox": [a["bbox"][0], a["bbox"][1], a["bbox"][2] / 3, a["bbox"][3]]}
        for a in truth["annotations"] if a["iscrowd"] for _ in range(3)
    ]  # fmt: skip
    return {
        "perfect": perfect,
        "empty": [],
        "garbage": garbage,
        "shifted": shifted(0.1) + garbage,
        "ties": [{**r, "score": 0.5} for r in shifted(0.15) + garbage + perfect],
        "coarse scores": [{**r, "score": round(r["score"], 1)} for r in shifted(0.1) + garbage],
        "duplicates": perfect + perfect + shifted(0.05),
        "crowds": shifted(0.1) + inside,
        "zero sides": [{**r, "bbox": [*r["bbox"][:2], 0, 0]} for r in perfect] + shifted(0.1),
        "many": [{**r, "bbox": [float(v) + 3 * k % 7 for v in r["bbox"]], "score": r["score"] / (k + 1)}
                 for r in perfect for k in range(45)],
    }[kind]  # fmt: skip


KINDS = (
    "perfect",
    "empty",
    "garbage",
    "shifted",
    "ties",
    "coarse scores",
    "duplicates",
    "crowds",
    "zero sides",
    "many",
)


@backends
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(8, 300), (8, 30)], ids=["all sizes", "small only"])
def test_figures_equal_the_loop(backend, kind, sizes):
    truth = world(sizes=sizes)
    results = guesses(truth, kind)
    before = [dict(a) for a in truth["annotations"]], [dict(r) for r in results]
    found = ap.average_precision(truth, results, backend)
    metrics, per_class = expected(sizes, kind)
    assert found.metrics == pytest.approx(metrics, abs=1e-12, nan_ok=True)
    assert found.per_class == pytest.approx(per_class, abs=1e-12, nan_ok=True)
    assert before == ([dict(a) for a in truth["annotations"]], [dict(r) for r in results])


@pytest.mark.skipif(len(INSTALLED) < 2, reason=f"needs both packages, there is {INSTALLED or 'none'}")
@pytest.mark.parametrize("kind", KINDS)
def test_both_packages_give_the_same_figures(kind):
    truth = world(seed=4, images=20)
    one, two = (ap.average_precision(truth, guesses(truth, kind), name) for name in ap.BACKENDS)
    assert one.metrics == pytest.approx(two.metrics, abs=1e-12, nan_ok=True)
    assert one.per_class == pytest.approx(two.per_class, abs=1e-12, nan_ok=True)


@needs_one
def test_perfect_boxes_give_one_and_no_boxes_give_zero():
    truth = world()
    perfect = ap.average_precision(truth, guesses(truth, "perfect"))
    empty = ap.average_precision(truth, [])
    assert [perfect.metrics[k] for k in ("mAP", "AP50", "AP75", "AR100")] == pytest.approx([1.0] * 4, abs=1e-12)
    assert [empty.metrics[k] for k in ("mAP", "AP50", "AP75", "AR100")] == [0.0] * 4


@needs_one
def test_the_size_of_an_object_is_its_own_area_and_without_one_its_box():
    truth = world()
    one = {"image_id": 0, "category_id": 3, "bbox": [0.0, 0.0, 40.0, 40.0], "iscrowd": 0}
    found = [{"image_id": 0, "category_id": 3, "bbox": one["bbox"], "score": 0.5}]
    outline = ap.average_precision({**truth, "annotations": [{**one, "area": 500.0}]}, found).metrics
    assert outline["AP_small"] == pytest.approx(1) and math.isnan(outline["AP_medium"])
    box = ap.average_precision({**truth, "annotations": [one]}, found).metrics
    assert box["AP_medium"] == pytest.approx(1) and math.isnan(box["AP_small"])


@needs_one
def test_what_the_truth_lacks_is_nan_and_none_in_json():
    truth = world(sizes=(8, 30))
    found = ap.average_precision(truth, guesses(truth, "shifted"))
    assert math.isnan(found.metrics["AP_large"]) and math.isnan(found.per_class["nobody"])
    nothing = ap.average_precision({**truth, "annotations": []}, guesses(truth, "garbage"))
    assert all(math.isnan(value) for value in nothing.metrics.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 5}, "entry 1 image_id 5 is not among the 6 images"),
        ({"category_id": 1}, "entry 1 category_id 1 is not among the 4 categories"),
        ({"score": math.nan}, "entry 1 its score is not finite"),
        ({"bbox": [0, 0, math.inf, 1]}, "entry 1 its bbox is not finite"),
        ({"bbox": [0, 0, -1, 1]}, "entry 1 its bbox has a negative side"),
        ({"bbox": [0, 0, 1]}, "a bbox is four numbers"),
        ({"score": "high"}, "a score is one"),
    ],
)
def test_a_result_that_cannot_be_scored_is_named(change, said):
    truth = world()
    results = guesses(truth, "perfect")
    results[1] = {**results[1], **change}
    with pytest.raises(DataError, match=said):
        ap.check_results(truth, results)


def test_a_missing_key_and_an_unknown_backend_are_named():
    truth = world()
    with pytest.raises(DataError, match="entry 0 has no score"):
        ap.check_results(truth, [{"image_id": 0, "category_id": 3, "bbox": [0, 0, 1, 1]}])
    with pytest.raises(UsageError, match="there are: faster-coco-eval, pycocotools"):
        ap.average_precision(truth, [], "coco")


def test_without_either_package_the_way_out_is_named(monkeypatch):
    for module, _, _ in ap.BACKENDS.values():
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install cmapkd\[detection\]"):
        ap.average_precision(world(), [])
    with pytest.raises(UsageError, match=r"pip install cmapkd\[detection\]"):
        ap.average_precision(world(), [], "pycocotools")
