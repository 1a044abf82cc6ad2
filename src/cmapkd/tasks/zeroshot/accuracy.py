"""Zero-shot classification: prompt ensembles, top-1, top-5 and mean per class, ties and NaN against the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.tasks.encoder import Encoder, embed_texts, spans
from cmapkd.tasks.score import ClassScore


def templates(name: str) -> tuple[Callable[[str], str], ...]:
    """The prompt templates of OpenAI's ImageNet notebook: all 80, or the 7 that do nearly as well."""
    import open_clip

    chosen = {"openai-80": open_clip.OPENAI_IMAGENET_TEMPLATES, "simple-7": open_clip.SIMPLE_IMAGENET_TEMPLATES}
    return tuple(chosen[name])


def classifier(
    encoder: Encoder, classes: Sequence[str], prompts: Sequence[Callable[[str], str]], batch: int = 256
) -> Tensor:
    """[C, E]: per class the mean of its prompts' normalised embeddings, normalised again."""
    texts = [prompt(name) for name in classes for prompt in prompts]
    embedded = F.normalize(embed_texts(encoder, texts, batch), dim=-1)
    return F.normalize(embedded.unflatten(0, (len(classes), len(prompts))).mean(1), dim=-1)


def label_ranks(image: Tensor, weights: Tensor, labels: Tensor, chunk: int = 4096) -> Tensor:
    """int64 [N]: number of wrong classes that score at least as high as the right one; NaN counts against the model.

    image: [N, E]; weights: [C, E]; labels: int [N].
    """
    found = []
    for span in spans(len(image), chunk):
        scores = image[span.start : span.stop].float() @ weights.float().T
        right = scores.gather(1, labels[span.start : span.stop].long()[:, None])
        found.append(len(weights) - 1 - (scores < right).sum(1))
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def per_class(image: Tensor, weights: Tensor, labels: Tensor, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """The share ranked first of each class that occurs in `labels`, in the order of `classes`."""
    right = (label_ranks(image, weights, labels) == 0).double()
    count = labels.long().bincount(minlength=len(weights))
    hits = torch.zeros(len(weights), dtype=torch.float64).index_add(0, labels.long(), right)
    rows = zip(classes, hits.tolist(), count.tolist(), strict=True)
    return tuple(ClassScore(name, n, hit / n) for name, hit, n in rows if n)


def accuracies(image: Tensor, weights: Tensor, labels: Tensor) -> dict[str, float]:
    """acc1, acc5 and mean_per_class_recall in [0, 1]; the mean is over the classes that occur in `labels`."""
    rank = label_ranks(image, weights, labels)
    classes = per_class(image, weights, labels, [""] * len(weights))
    return {
        "acc1": int((rank < 1).sum()) / len(rank),
        "acc5": int((rank < 5).sum()) / len(rank),
        "mean_per_class_recall": sum(each.acc1 for each in classes) / len(classes),
    }
