"""Boxes in COCO's form: those that a detector finds in a set, and the true ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cmapkd.core.errors import DataError
from cmapkd.core.log import Progress
from cmapkd.data.boxes import Boxes
from cmapkd.data.images import Unreadable, decode
from cmapkd.data.views import View, render
from cmapkd.tasks.detection.detector import Detector, from_tower
from cmapkd.tasks.encoder import spans
from cmapkd.tasks.result_file import ResultRow


def detect(detector: Detector, boxes: Boxes, batch: int = 16) -> list[ResultRow]:
    """COCO results of every image, boxes in the pixels of its original size. Raises DataError for an unreadable image."""
    keys, was, results = sorted(boxes.categories), detector.training, []
    device = detector.tower.device
    progress = Progress(len(boxes), "detect")
    detector.eval()
    for span in spans(len(boxes), batch):
        try:
            pixels = np.stack([render(decode(boxes.paths[i]), View(), detector.size) for i in span])
        except Unreadable as error:
            raise DataError(f"{error}; evaluation needs every image: mend it or remove its rows") from None
        with torch.inference_mode():
            found = detector(torch.from_numpy(pixels).to(device))
        for i, one in zip(span, found, strict=True):
            original = from_tower(one["boxes"].double().cpu(), boxes.sizes[i], detector.size)
            rows = zip(original.tolist(), one["scores"].tolist(), one["labels"].tolist(), strict=True)
            results += [
                {"image_id": int(boxes.image_ids[i]), "category_id": keys[label], "bbox": box, "score": score}
                for box, score, label in rows
            ]
        progress.update(span.stop)
    progress.close()
    detector.train(was)
    return results


def coco_truth(boxes: Boxes) -> dict[str, Any]:
    """The set as instances_*.json has it, the truth for average precision."""
    annotations = [
        {"image_id": int(image), "category_id": int(c), "bbox": [float(v) for v in box], "area": float(a), "iscrowd": int(w)}
        for image, *rows in zip(
            boxes.image_ids, boxes.category_ids, boxes.boxes, boxes.area, boxes.iscrowd, strict=True
        )
        for c, box, a, w in zip(*rows, strict=True)
    ]  # fmt: skip
    return {
        "images": [
            {"id": int(i), "width": w, "height": h} for i, (w, h) in zip(boxes.image_ids, boxes.sizes, strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": int(key), "name": name} for key, name in sorted(boxes.categories.items())],
    }
