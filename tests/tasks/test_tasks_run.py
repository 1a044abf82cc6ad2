"""From encoder and samples to a Score, with the provenance that every figure must carry."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.config import names
from cmapkd.core.errors import DataError, UsageError
from cmapkd.tasks.encoder import embed_images, embed_texts
from cmapkd.tasks.score import Score
from cmapkd.tasks.table import TASKS, chosen_protocol, evaluate

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourEncoder:
    """Knows three colours: an image by its mean, a text by the colour it names."""

    image_size = 4

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode_images(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        self.calls.append(len(images))
        return F.normalize(images.float().mean((2, 3)), dim=-1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        self.calls.append(len(texts))
        return F.normalize(torch.tensor([[float(name in text) for name in COLOURS] for text in texts]), dim=-1)


@dataclass
class FakeSamples:
    name: str = "toy/test"
    captions: list[list[str]] = field(default_factory=lambda: [["a red thing", "red"], ["green"], ["so blue", "bleu"]])
    labels: np.ndarray | None = field(default_factory=lambda: np.array([0, 1, 2]))
    classes: list[str] | None = field(default_factory=lambda: list(COLOURS))
    notes: tuple[str, ...] = ("synthetic",)

    def __len__(self) -> int:
        return len(self.captions)

    def flat_captions(self) -> list[str]:
        return [caption for captions in self.captions for caption in captions]

    @property
    def caption_offsets(self) -> np.ndarray:
        return np.cumsum([0, *(len(captions) for captions in self.captions)])

    def fingerprint(self) -> str:
        return "f00dface"


def read(span: range) -> Tensor:
    pixels = torch.tensor(list(COLOURS.values()), dtype=torch.uint8)[list(span)]
    return pixels[:, :, None, None].expand(-1, -1, 4, 4)


def test_retrieval_counts_every_caption_and_says_what_it_is_a_figure_of() -> None:
    score = evaluate(ColourEncoder(), FakeSamples(), "retrieval", 2, checkpoint="toy.safetensors", read=read)
    assert score.metrics["text_retrieval_recall@1"] == 1
    assert score.metrics["image_retrieval_recall@1"] == pytest.approx(4 / 5)
    line = score.line()
    for part in ("standard", "toy/test", "3 images", "5 captions", "f00dface", "toy.safetensors", "synthetic"):
        assert part in line
    assert "image_retrieval_recall@1 80.00 %" in line and "image_retrieval_medr 1," in line


def test_embedding_that_takes_long_tells_its_progress_however_few_the_batches(monkeypatch, capsys) -> None:
    evaluate(ColourEncoder(), FakeSamples(), "retrieval", 2, read=read)
    assert not capsys.readouterr().err
    monkeypatch.setattr("cmapkd.tasks.encoder.QUIET", 0.0)
    evaluate(ColourEncoder(), FakeSamples(), "retrieval", 2, read=read)
    assert "embed images 3/3" in (err := capsys.readouterr().err) and "embed texts 5/5" in err


def test_figures_of_question_types_are_in_the_json_and_only_counted_on_the_line() -> None:
    metrics = {"accuracy": 0.5, "answer/yes/no": 0.25, "question/is it": 0.1, "question/what": 0.2}
    score = Score("vqa", "toy", metrics, "val", 2, 0, "f00dface")
    assert score.line().endswith(": accuracy 50.00 %, answer/yes/no 25.00 %, and 2 question types in the JSON")
    assert score.to_json()["metrics"] == metrics


def test_the_first_caption_protocol_is_named_and_counts_one_caption_an_image() -> None:
    score = evaluate(ColourEncoder(), FakeSamples(), "retrieval", 2, "first-caption", read=read)
    assert (score.protocol, score.n_captions) == ("first-caption", 3)
    assert score.metrics["mean_recall@1"] == 1


def test_zeroshot_uses_the_ensemble_that_the_protocol_names() -> None:
    for protocol, prompts in (("openai-80", 80), ("simple-7", 7)):
        encoder = ColourEncoder()
        score = evaluate(encoder, FakeSamples(), "zeroshot", 1000, protocol, read=read)
        assert score.metrics == {"acc1": 1, "acc5": 1, "mean_per_class_recall": 1}
        assert score.protocol == protocol and encoder.calls == [3 * prompts, 3]


def test_batches_are_no_larger_than_asked() -> None:
    encoder = ColourEncoder()
    assert embed_images(encoder, read, 3, 2).shape == (3, 3)
    assert embed_texts(encoder, ["red"] * 5, 2).shape == (5, 3)
    assert encoder.calls == [2, 1, 2, 2, 1]


@pytest.mark.parametrize("task", names.tasks("evaluate"))
def test_every_task_has_a_default_protocol_and_refuses_an_unknown_one(task: str) -> None:
    assert chosen_protocol(task, None) == next(iter(TASKS[task].protocols))
    with pytest.raises(UsageError, match=next(iter(TASKS[task].protocols))):
        evaluate(ColourEncoder(), FakeSamples(), task, protocol="other", read=read)


def test_an_unknown_task_names_those_that_exist() -> None:
    with pytest.raises(
        UsageError, match=r"there are: retrieval, zeroshot, hard_negatives \(did you mean 'retrieval'\?\)$"
    ):
        evaluate(ColourEncoder(), FakeSamples(), "retrival", read=read)


@pytest.mark.parametrize("task", names.tasks("probe"))
def test_a_task_with_a_head_says_where_it_is_trained(task: str) -> None:
    with pytest.raises(UsageError, match=f"cmapkd train-head {task}"):
        evaluate(ColourEncoder(), FakeSamples(), task, read=read)


def test_zeroshot_keeps_every_class_and_names_both_ends() -> None:
    samples = FakeSamples(captions=[["x"]] * 4, labels=np.array([0, 1, 0, 1]))

    def shown(span: range) -> Tensor:  # red, green, red, blue: the second green one looks blue, and blue does not occur
        return read(range(3))[torch.tensor([0, 1, 0, 2])[list(span)]]

    score = evaluate(ColourEncoder(), samples, "zeroshot", read=shown)
    assert [(c.name, c.images, c.acc1) for c in score.per_class] == [("red", 2, 1.0), ("green", 2, 0.5)]
    assert score.metrics["mean_per_class_recall"] == 0.75
    assert score.extremes()[0] == "zeroshot, worst classes: green 50.0 % of 2, red 100.0 % of 2"
    assert score.extremes()[1] == "zeroshot, best classes: red 100.0 % of 2, green 50.0 % of 2"
    assert score.to_json()["per_class"][1] == {"name": "green", "images": 2, "acc1": 0.5}
    assert "green" not in score.line()


def test_zeroshot_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="no class labels"):
        evaluate(ColourEncoder(), FakeSamples(labels=None), "zeroshot", read=read)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="no image"):
        evaluate(ColourEncoder(), FakeSamples(captions=[]), "retrieval", read=read)
