"""Hard negatives are counted against the model, over all pairs and by what differs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cmapkd.config.schema import DataConfig
from cmapkd.data.readers import open_samples
from cmapkd.data.scenes.negatives import KINDS, contrasts
from cmapkd.tasks.hard_negatives.accuracy import nearer
from cmapkd.tasks.table import evaluate


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMAPKD_DATA", str(tmp_path_factory.mktemp("world")))
        yield open_samples("scenes:12:val", DataConfig(train="x"))


class Oracle:
    """Knows which sentences are true of which image, and denies those of one kind."""

    image_size = 8

    def __init__(self, samples, denied: str = "") -> None:
        self.n, self.texts, self.good = len(samples), 0, {}
        for pair in contrasts(samples):
            if pair.kind != denied:
                self.good.setdefault(pair.true, set()).add(pair.image)

    def encode_images(self, images: Tensor) -> Tensor:
        return torch.eye(self.n)[images[:, 0, 0, 0].long()]

    def encode_texts(self, texts: list[str]) -> Tensor:
        self.texts += len(texts)
        return torch.tensor([[float(k in self.good.get(text, ())) for k in range(self.n)] for text in texts])


def read(span: range) -> Tensor:
    return torch.tensor(list(span), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)


def test_an_encoder_that_knows_the_truth_has_all_of_them(samples) -> None:
    oracle = Oracle(samples)
    score = evaluate(oracle, samples, "hard_negatives", read=read)
    pairs = contrasts(samples)
    assert score.metrics["accuracy"] == 1 and set(score.metrics) == {"accuracy", *(f"accuracy/{k}" for k in KINDS)}
    assert score.n_captions == 2 * len(pairs) and f"{len(pairs)} pairs, chance 50 %" in score.line()
    assert oracle.texts == len({text for pair in pairs for text in (pair.true, pair.false)})


def test_a_kind_that_is_not_understood_is_seen_and_the_mean_is_over_pairs(samples) -> None:
    pairs = contrasts(samples)
    score = evaluate(Oracle(samples, denied="count"), samples, "hard_negatives", read=read)
    lost = sum(pair.kind == "count" for pair in pairs)
    assert score.metrics["accuracy/count"] == 0 and score.metrics["accuracy/colour"] == 1
    assert score.metrics["accuracy"] == pytest.approx(1 - lost / len(pairs))


def test_ties_and_nan_count_against_the_model() -> None:
    image, nan = torch.ones(3, 2), float("nan")
    true = torch.tensor([[1.0, 1.0], [1.0, 0.0], [nan, 1.0]])
    false = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert nearer(image, true, false).tolist() == [True, False, False]
