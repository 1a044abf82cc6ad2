"""Zero-shot classification of a model on labelled images: class prompts, then accuracies."""

from __future__ import annotations

import torch

from cmapkd.core.errors import DataError
from cmapkd.data.samples import Samples
from cmapkd.tasks.encoder import Encoder, embed_images
from cmapkd.tasks.evaluate import Pixels
from cmapkd.tasks.score import Score
from cmapkd.tasks.zeroshot.accuracy import accuracies, classifier, per_class, templates

PROTOCOLS = {
    "openai-80": "all 80 prompt templates of OpenAI's ImageNet notebook",
    "simple-7": "the 7 of them that do nearly as well",
}


def score_zeroshot(encoder: Encoder, samples: Samples, read: Pixels, batch: int, protocol: str) -> Score:
    """Top-1, top-5, mean per class and each class, with the prompt ensemble that `protocol` names."""
    if samples.labels is None or not samples.classes:
        raise DataError(
            f"zeroshot: {samples.name} has no class labels; give an image folder with one sub-folder a class"
        )
    weights = classifier(encoder, samples.classes, templates(protocol), batch)
    image, labels = embed_images(encoder, read, len(samples), batch), torch.tensor(list(samples.labels))
    return Score(
        "zeroshot", protocol, accuracies(image, weights, labels), samples.name, len(samples), 0,
        samples.fingerprint(), notes=(f"{len(samples.classes)} classes", *samples.notes),
        per_class=per_class(image, weights, labels, samples.classes),
    )  # fmt: skip
