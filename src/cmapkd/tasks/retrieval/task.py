"""The task entry of image-text retrieval."""

from __future__ import annotations

from cmapkd.tasks.retrieval.evaluate import score_retrieval
from cmapkd.tasks.retrieval.loss import ContrastiveLoss, require_pairs
from cmapkd.tasks.retrieval.protocols import PROTOCOLS
from cmapkd.tasks.task import LossOnData, Metric, Task

METRICS = {
    "image_retrieval_recall@1": Metric("text→image: share of captions whose image is ranked first", "T→I R@1"),
    "image_retrieval_recall@5": Metric("text→image: share of captions whose image is among the first 5"),
    "image_retrieval_recall@10": Metric("text→image: share of captions whose image is among the first 10"),
    "text_retrieval_recall@1": Metric("image→text: share of images with a caption ranked first", "I→T R@1"),
    "text_retrieval_recall@5": Metric("image→text: share of images with a caption among the first 5"),
    "text_retrieval_recall@10": Metric("image→text: share of images with a caption among the first 10"),
    "mean_recall@1": Metric("mean of both directions' recall@1", "mean R@1", main=True),
    "mean_recall": Metric("mean of the six recalls"),
    "image_retrieval_medr": Metric("text→image: median rank, from 1", more_is_better=False),
    "text_retrieval_medr": Metric("image→text: median rank, from 1", more_is_better=False),
}
TASK = Task(
    name="retrieval",
    about="recall in both directions and median ranks, by a named protocol",
    place=1,
    metrics=METRICS,
    protocols={name: protocol.about for name, protocol in PROTOCOLS.items()},
    evaluate=score_retrieval,
    loss_name="contrastive",
    loss=LossOnData(
        ContrastiveLoss,
        check=require_pairs,
        without_data="on the run's own pairs is what `align` is already; set task.train",
    ),
)
