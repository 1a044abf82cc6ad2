"""The task entry of zero-shot classification."""

from __future__ import annotations

from cmapkd.tasks.task import LossOnData, Metric, Task
from cmapkd.tasks.zeroshot.evaluate import PROTOCOLS, score_zeroshot
from cmapkd.tasks.zeroshot.loss import ClassificationLoss, require_labels

METRICS = {
    "acc1": Metric("share of images whose class is ranked first", "zero-shot top-1", main=True),
    "acc5": Metric("share of images whose class is among the first 5", "top-5"),
    "mean_per_class_recall": Metric("mean over the classes of the share ranked first"),
    "head/acc1": Metric("top-1 of the method's own classifier, where it has one", "own head top-1"),
}
TASK = Task(
    name="zeroshot",
    about="top-1, top-5, mean per class and each class, with the prompt ensemble that the protocol names",
    place=2,
    metrics=METRICS,
    protocols=PROTOCOLS,
    labelled=True,
    evaluate=score_zeroshot,
    loss_name="classification",
    loss=LossOnData(ClassificationLoss, check=require_labels, without_data=None),
)
