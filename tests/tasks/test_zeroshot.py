"""Zero-shot classification: the prompt ensemble and the three figures against loops."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.tasks.zeroshot.accuracy import accuracies, classifier, label_ranks, templates


class HashEncoder:
    """Every text its own direction; lengths differ on purpose, so that forgetting to normalise shows."""

    image_size = 8

    def encode_images(self, images: Tensor) -> Tensor:
        return F.normalize(images.flatten(1).float()[:, :16], dim=-1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        rows = [list(hashlib.sha256(text.encode()).digest()[:16]) for text in texts]
        return torch.tensor(rows, dtype=torch.float32) - 127


def test_the_classifier_is_the_normalised_mean_of_normalised_prompts() -> None:
    encoder, prompts = HashEncoder(), templates("simple-7")
    weights = classifier(encoder, ["cat", "dog"], prompts, batch=3)
    for row, name in enumerate(["cat", "dog"]):
        total = torch.zeros(16)
        for prompt in prompts:
            one = encoder.encode_texts([prompt(name)])[0]
            total += one / one.norm()
        torch.testing.assert_close(weights[row], total / total.norm())


def test_the_ensembles_have_80_and_7_prompts() -> None:
    assert len(templates("openai-80")) == 80
    assert len(templates("simple-7")) == 7


def test_figures_equal_a_loop_over_images() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(-2, 3, (200, 4), generator=generator).float()
    weights = torch.randint(-2, 3, (12, 4), generator=generator).float()
    labels = torch.randint(0, 11, (200,), generator=generator)
    ranks, by_class = [], {}
    for x, label in zip(image, labels.tolist(), strict=True):
        scores = (weights @ x).tolist()
        rank = sum(not s < scores[label] for c, s in enumerate(scores) if c != label)
        ranks.append(rank)
        by_class.setdefault(label, []).append(rank == 0)
    metrics = accuracies(image, weights, labels)
    assert label_ranks(image, weights, labels, chunk=7).tolist() == ranks
    assert metrics["acc1"] == sum(r < 1 for r in ranks) / 200
    assert metrics["acc5"] == sum(r < 5 for r in ranks) / 200
    expected = sum(sum(hits) / len(hits) for hits in by_class.values()) / len(by_class)
    assert abs(metrics["mean_per_class_recall"] - expected) < 1e-12
    assert metrics["acc1"] != metrics["mean_per_class_recall"]


def test_ties_and_nan_count_against_the_model() -> None:
    labels = torch.arange(6)
    assert accuracies(torch.ones(6, 3), torch.ones(6, 3), labels)["acc5"] == 0
    assert accuracies(torch.ones(6, 3) * torch.nan, torch.ones(6, 3), labels)["acc5"] == 0
