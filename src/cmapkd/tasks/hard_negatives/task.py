"""The task entry of hard negatives."""

from __future__ import annotations

from cmapkd.tasks.hard_negatives.accuracy import score_hard_negatives
from cmapkd.tasks.task import Metric, Task

METRICS = {
    "accuracy": Metric("share of pairs whose true sentence is nearer to the image", "hard negatives", main=True),
    "accuracy/relation": Metric("the same of pairs that differ in the relation of two objects"),
    "accuracy/swap": Metric("the same of pairs whose two objects change places"),
    "accuracy/colour": Metric("the same of pairs that differ in a colour"),
    "accuracy/shape": Metric("the same of pairs that differ in a shape"),
    "accuracy/size": Metric("the same of pairs that differ in a size"),
    "accuracy/texture": Metric("the same of pairs that differ in a texture"),
    "accuracy/background": Metric("the same of pairs that differ in the background"),
    "accuracy/count": Metric("the same of pairs that differ in a number of objects"),
}
TASK = Task(
    name="hard_negatives",
    about="share of pairs whose true sentence is nearer, over all pairs and by what differs; built-in scenes only",
    place=3,
    metrics=METRICS,
    protocols={"one-change": "two sentences that differ in one attribute or relation"},
    evaluate=score_hard_negatives,
)
