"""Rank counting against a naive full matrix: ties, duplicates, NaN, chunk sizes, both protocols."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cmapkd.core.errors import DataError
from cmapkd.tasks.retrieval.recall import first_captions, ranks, recalls


def naive_ranks(image: Tensor, text: Tensor, owner: Tensor) -> tuple[list[int], list[int]]:
    """Written from the protocol's words: loops over a full matrix in float64."""
    scores = (image.double() @ text.double().T).tolist()
    owners = owner.tolist()
    by_caption = [
        sum(not scores[i][j] < scores[own][j] for i in range(len(scores)) if i != own) for j, own in enumerate(owners)
    ]
    by_image = []
    for i, row in enumerate(scores):
        best = max((s for j, s in enumerate(row) if owners[j] == i and not math.isnan(s)), default=-math.inf)
        by_image.append(sum(not s < best for j, s in enumerate(row) if owners[j] != i))
    return by_caption, by_image


def toy(seed: int, n: int, width: int = 3, nan: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Small whole numbers: scores are exact in every order of summation and full of ties."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 6, (n,), generator=generator)
    owner = torch.repeat_interleave(torch.arange(n), counts)
    owner = owner[torch.randperm(len(owner), generator=generator)]
    image = torch.randint(-2, 3, (n, width), generator=generator).float()
    text = torch.randint(-2, 3, (len(owner), width), generator=generator).float()
    if nan:
        image[torch.rand(n, generator=generator) < 0.1] = math.nan
        text[torch.rand(len(owner), generator=generator) < 0.1] = math.nan
    return image, text, owner


@given(seed=st.integers(0, 10_000), n=st.integers(1, 90), nan=st.booleans(), chunk=st.sampled_from([1, 70, 256]))
@settings(max_examples=60, deadline=None)
def test_counted_ranks_equal_the_naive_matrix_with_ties_and_nan(seed: int, n: int, nan: bool, chunk: int) -> None:
    image, text, owner = toy(seed, n, nan=nan)
    found = ranks(image, text, owner, chunk)
    assert (found.image.tolist(), found.text.tolist()) == naive_ranks(image, text, owner)


def test_ranks_over_many_tiles_equal_the_naive_matrix() -> None:
    image, text, owner = toy(1, 300, nan=True)
    found = ranks(image, text, owner, chunk=64)
    assert (found.image.tolist(), found.text.tolist()) == naive_ranks(image, text, owner)


def test_a_model_that_gives_everything_the_same_embedding_scores_zero() -> None:
    metrics = recalls(torch.ones(50, 8), torch.ones(250, 8), torch.arange(50).repeat_interleave(5))
    assert all(metrics[f"{side}_retrieval_recall@10"] == 0 for side in ("image", "text"))
    assert metrics["image_retrieval_medr"] == 50
    assert metrics["text_retrieval_medr"] == 246


def test_a_model_that_gives_nan_scores_zero() -> None:
    image, text = torch.randn(30, 8), torch.randn(60, 8)
    owner = torch.arange(30).repeat_interleave(2)
    for broken in ((image * math.nan, text), (image, text * math.nan)):
        metrics = recalls(*broken, owner)
        assert metrics["mean_recall"] == 0


def test_a_perfect_model_scores_one_in_single_precision() -> None:
    unit = F.normalize(torch.randn(1000, 48, generator=torch.Generator().manual_seed(0)), dim=-1)
    metrics = recalls(unit, unit.repeat_interleave(2, 0), torch.arange(1000).repeat_interleave(2))
    assert metrics["mean_recall"] == metrics["mean_recall@1"] == 1
    assert metrics["text_retrieval_medr"] == 1


def test_a_duplicate_image_costs_its_twin_the_first_rank_wherever_it_stands() -> None:
    image = F.normalize(torch.randn(301, 48, generator=torch.Generator().manual_seed(0)), dim=-1)
    image[300] = image[3]
    found = ranks(image, image.clone(), torch.arange(301), chunk=64)
    assert found.image.nonzero().squeeze(1).tolist() == found.text.nonzero().squeeze(1).tolist() == [3, 300]
    assert found.image[3] == found.image[300] == 1


@pytest.mark.parametrize("n", [2, 3, 5, 7, 11])
def test_equal_embeddings_tie_among_few_images_where_blas_takes_other_kernels(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(1, 96, generator=generator), dim=-1) for _ in range(2))
    found = ranks(image.repeat(n, 1), text.repeat(3 * n, 1), torch.arange(n).repeat_interleave(3))
    assert found.image.tolist() == [n - 1] * 3 * n
    assert found.text.tolist() == [3 * (n - 1)] * n


def test_no_score_is_computed_twice() -> None:
    image = torch.randn(256, 16)
    with FlopCounterMode(display=False) as counter:
        ranks(image, image, torch.arange(256), chunk=64)
    assert counter.get_total_flops() == 2 * 256 * 256 * 16


def test_the_chunk_size_changes_no_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(333, 96, generator=generator), dim=-1)
    owner = torch.arange(333).repeat_interleave(3)
    text = F.normalize(image[owner] + 2 * torch.randn(999, 96, generator=generator) / 96**0.5, dim=-1)
    text[::7] = text[0]
    reference = ranks(image, text, owner, chunk=256)
    for chunk in (1, 64, 65, 100, 10_000):
        found = ranks(image, text, owner, chunk)
        assert torch.equal(found.image, reference.image) and torch.equal(found.text, reference.text)


def test_half_precision_input_is_scored_in_single_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(200, 32, generator=generator).half() for _ in range(2))
    owner = torch.arange(200)
    assert recalls(image, text, owner) == recalls(image.float(), text.float(), owner)


def test_image_to_text_hits_when_any_caption_is_found() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[0.9, 0.0], [-1.0, 0.5], [0.5, 1.0]])
    metrics = recalls(image, text, torch.tensor([0, 0, 1]))
    assert metrics["text_retrieval_recall@1"] == 1
    assert metrics["image_retrieval_recall@1"] == pytest.approx(2 / 3)


def test_the_first_captions_are_found_and_have_figures_of_their_own() -> None:
    image, text, owner = toy(3, 40)
    kept = [owner.tolist().index(i) for i in range(40)]
    assert first_captions(owner, 40).tolist() == kept
    assert recalls(image, text, owner) != recalls(image, text[kept], owner[kept])


def test_keys_are_those_of_clip_benchmark() -> None:
    metrics = recalls(torch.eye(4), torch.eye(4), torch.arange(4))
    sides = ("image_retrieval", "text_retrieval")
    wanted = {f"{side}_{figure}" for side in sides for figure in ("recall@1", "recall@5", "recall@10", "medr")}
    assert set(metrics) == wanted | {"mean_recall@1", "mean_recall"}


def test_an_image_without_caption_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 of 3 images have no caption \(first: image 1\)"):
        recalls(torch.eye(3), torch.eye(3)[:2], torch.tensor([0, 2]))


def test_a_caption_of_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="images 0 to 2"):
        recalls(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 3]))
