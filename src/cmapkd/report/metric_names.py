"""Metrics in the order that tables list them, and the heading of each."""

from __future__ import annotations

# As logs name them; clip-benchmark calls text→image `image_retrieval`.
METRICS = (
    "image_retrieval_recall@1", "image_retrieval_recall@5", "image_retrieval_recall@10",
    "text_retrieval_recall@1", "text_retrieval_recall@5", "text_retrieval_recall@10", "mean_recall@1", "mean_recall",
    "zeroshot/acc1", "zeroshot/acc5", "head/acc1",
)  # fmt: skip
KEY_METRIC = "mean_recall@1"  # compares methods wherever there is retrieval
_HEADINGS = (
    ("image_retrieval_recall", "T→I R"), ("text_retrieval_recall", "I→T R"), ("mean_recall@1", "mean R@1"),
    ("mean_recall", "mean R"), ("zeroshot/acc", "zero-shot top-"), ("head/acc", "head top-"),
)  # fmt: skip


def heading(metric: str) -> str:
    """The short form of a metric's name: `image_retrieval_recall@1` (text→image) is `T→I R@1`."""
    for prefix, short in _HEADINGS:
        if metric.startswith(prefix):
            return short + metric.removeprefix(prefix)
    return metric
