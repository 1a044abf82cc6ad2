"""The task entry of image captioning."""

from __future__ import annotations

from cmapkd.tasks.captioning.loss import CaptioningLoss
from cmapkd.tasks.captioning.probe import captioning_probe, require_captions
from cmapkd.tasks.captioning.results import score_caption_results
from cmapkd.tasks.task import LossOnData, Metric, Task

METRICS = {
    "bleu_4": Metric("BLEU-4 of the corpus", "BLEU-4"),
    "meteor": Metric("METEOR, by the authors' program in Java", "METEOR"),
    "rouge_l": Metric("ROUGE-L", "ROUGE-L"),
    "cider": Metric("CIDEr-D", "CIDEr", main=True),
    "spice": Metric("SPICE, by the authors' program in Java", "SPICE"),
    "clip_score": Metric("CLIPScore by the judge", "CLIPScore"),
    "ref_clip_score": Metric("RefCLIPScore by the judge"),
    "bleu_1": Metric("BLEU-1 of the corpus"),
    "bleu_2": Metric("BLEU-2 of the corpus"),
    "bleu_3": Metric("BLEU-3 of the corpus"),
}
TASK = Task(
    name="captioning",
    about="BLEU, ROUGE-L, CIDEr, METEOR, SPICE and CLIPScore of a decoder",
    place=6,
    metrics=METRICS,
    probe=captioning_probe,
    score=score_caption_results,
    judged=True,
    loss=LossOnData(CaptioningLoss, check=require_captions),
)
