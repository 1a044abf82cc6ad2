"""The task entry of visual question answering."""

from __future__ import annotations

from cmapkd.data.readers import open_questions
from cmapkd.tasks.task import LossOnData, Metric, Task
from cmapkd.tasks.vqa.loss import VqaLoss
from cmapkd.tasks.vqa.probe import require_answers, vqa_probe
from cmapkd.tasks.vqa.results import score_vqa_results

METRICS = {
    "accuracy": Metric("official VQA accuracy over all questions", "VQA", main=True),
    "answer/yes/no": Metric("accuracy over the questions answered with yes or no", "yes/no"),
    "answer/number": Metric("accuracy over the questions answered with a number", "number"),
    "answer/other": Metric("accuracy over all other questions", "other"),
    "lenient": Metric("accuracy with normalisation of every answer"),
    "ceiling": Metric("accuracy of always choosing the best answer of the vocabulary"),
}
TASK = Task(
    name="vqa",
    about="official VQA accuracy of a head",
    place=4,
    metrics=METRICS,
    read=open_questions,
    probe=vqa_probe,
    options=("head",),
    score=score_vqa_results,
    loss=LossOnData(VqaLoss, check=require_answers),
)
