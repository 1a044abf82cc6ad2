"""The task entry of object detection."""

from __future__ import annotations

from cmapkd.data.readers import open_boxes
from cmapkd.tasks.detection.loss import DetectionLoss
from cmapkd.tasks.detection.probe import check_sets, detection_probe
from cmapkd.tasks.detection.results import score_detection_results
from cmapkd.tasks.task import LossOnData, Metric, Task

METRICS = {
    "mAP": Metric("COCO's average precision over IoU 0.50, 0.55 … 0.95 and the classes", "mAP", main=True),
    "AP50": Metric("average precision at IoU 0.50", "AP50"),
    "AP75": Metric("average precision at IoU 0.75", "AP75"),
    "AP_small": Metric("average precision of objects up to 32² pixels"),
    "AP_medium": Metric("average precision of objects from 32² to 96² pixels"),
    "AP_large": Metric("average precision of objects above 96² pixels"),
    "AR1": Metric("average recall with 1 box per image"),
    "AR10": Metric("average recall with 10 boxes per image"),
    "AR100": Metric("average recall with 100 boxes per image"),
}
TASK = Task(
    name="detection",
    about="COCO's average precision of a head",
    place=5,
    metrics=METRICS,
    read=open_boxes,
    probe=detection_probe,
    score=score_detection_results,
    loss=LossOnData(DetectionLoss, check_both=check_sets),
)
