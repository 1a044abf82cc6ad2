"""Named retrieval protocols: a benchmark's name is only given to its own split, and folds are means of parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cmapkd.core.errors import DataError
from cmapkd.data.samples import Samples
from cmapkd.tasks.retrieval.protocols import PROTOCOLS, check_split, folds
from cmapkd.tasks.retrieval.recall import recalls
from cmapkd.tasks.table import evaluate

COCO = [f"COCO_val2014_{k:012d}.jpg" for k in range(5000)]
FLICKR = [f"{36979 + k}.jpg" for k in range(1000)]


@pytest.mark.parametrize(
    ("name", "images", "captions"),
    [("flickr30k-1k", FLICKR, 5000), ("coco-5k", COCO, 25010), ("coco-5k", COCO, 25000), ("coco-1k", COCO, 25010)],
)
def test_the_right_split_is_taken_without_a_word(name: str, images: list[str], captions: int) -> None:
    assert check_split(name, images, captions, "x") == ()


@pytest.mark.parametrize(
    ("name", "n", "captions"), [("coco-5k", 4999, 25010), ("coco-5k", 5000, 25009), ("flickr30k-1k", 1014, 5070)]
)
def test_other_counts_are_not_that_protocol(name: str, n: int, captions: int) -> None:
    with pytest.raises(DataError, match=rf"{name} is .*, but my.json holds {n:,} with {captions:,}; give that split"):
        check_split(name, COCO[:n], captions, "my.json")


def test_the_right_counts_under_other_names_are_doubted() -> None:
    (note,) = check_split("flickr30k-1k", [f"1022454332_6af2c{k:05d}.jpg" for k in range(1000)], 5000, "flickr8k")
    assert "not named" in note and "1022454332_6af2c00000.jpg" in note


def test_any_data_may_be_scored_by_the_standard_protocol() -> None:
    assert check_split("standard", ["a"], 1, "x") == check_split("first-caption", ["a"], 1, "x") == ()


def test_folds_are_consecutive_and_leave_nothing_out() -> None:
    assert folds(5000, 5) == [
        range(1000),
        range(1000, 2000),
        range(2000, 3000),
        range(3000, 4000),
        range(4000, 5000),
    ]
    assert folds(437, 1) == [range(437)]


class Rows:
    """Embeddings by number: image k is row k, caption `k text` the same row and some noise."""

    image_size = 1

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = F.normalize(torch.randn(n, 16, generator=generator), dim=-1)
        self.noise = torch.randn(5 * n, 16, generator=generator)
        self.seen = 0

    def encode_images(self, images):
        return self.images[images[:, 0, 0, 0]]

    def encode_texts(self, texts):
        rows = [int(text) for text in texts]
        return F.normalize(torch.stack([self.images[row // 5] + self.noise[row] / 2 for row in rows]), dim=-1)


def test_a_folded_protocol_is_the_mean_of_its_folds(monkeypatch, tmp_path: Path) -> None:
    n = 40
    monkeypatch.setitem(PROTOCOLS, "coco-1k", type(PROTOCOLS["coco-1k"])("", n, (5 * n,), r"\d+", folds=5))
    ids = tuple(str(k) for k in range(n))
    captions = tuple(tuple(str(5 * k + j) for j in range(5)) for k in range(n))
    samples, rows = Samples("toy", ids, tuple(tmp_path / key for key in ids), captions), Rows(n)

    def read(span: range) -> torch.Tensor:
        return torch.tensor(list(span)).view(-1, 1, 1, 1)

    found = evaluate(rows, samples, "retrieval", protocol="coco-1k", read=read)
    text = rows.encode_texts([str(k) for k in range(5 * n)])
    owner = torch.arange(8).repeat_interleave(5)
    parts = [recalls(rows.images[8 * k : 8 * k + 8], text[40 * k : 40 * k + 40], owner) for k in range(5)]
    assert found.protocol == "coco-1k" and found.line().startswith("retrieval (coco-1k)")
    assert found.metrics == pytest.approx({name: sum(p[name] for p in parts) / 5 for name in parts[0]})
    assert found.metrics["mean_recall@1"] > evaluate(rows, samples, "retrieval", read=read).metrics["mean_recall@1"]
