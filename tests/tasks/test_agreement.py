"""Student-teacher agreement: extremes, known correlations, reproducible draws."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from cmapkd.core.types import Pair
from cmapkd.tasks.agreement import agreement, fractional_ranks, pearson


def random_pair(seed: int, width: int = 16) -> Pair[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return Pair(torch.randn(80, width, generator=generator), torch.randn(160, width, generator=generator))


def test_a_rotated_teacher_agrees_with_itself_completely() -> None:
    teacher = random_pair(0)
    turn = torch.linalg.qr(torch.randn(24, 16, generator=torch.Generator().manual_seed(1)))[0]
    found = agreement(teacher.map(lambda x: x @ turn.T), teacher)
    assert found["image_top1_agreement"] == found["text_top1_agreement"] == 1
    assert found["pearson"] == pytest.approx(1)
    assert found["spearman"] == pytest.approx(1, abs=1e-4)


def test_strangers_agree_hardly_at_all() -> None:
    found = agreement(random_pair(0, 16), random_pair(1, 24))
    assert found["image_top1_agreement"] < 0.1
    assert abs(found["pearson"]) < 0.1 and abs(found["spearman"]) < 0.1


def test_correlations_equal_scipy_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 6, (300,), generator=generator).float()
    b = a + torch.randint(0, 6, (300,), generator=generator)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    assert pearson(fractional_ranks(a), fractional_ranks(b)) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_a_constant_similarity_has_no_correlation() -> None:
    flat = Pair(torch.ones(80, 4), torch.ones(160, 4))
    assert math.isnan(agreement(flat, random_pair(0))["pearson"])
