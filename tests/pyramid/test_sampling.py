"""Sampling of key tokens: in proportion to importance, unbiased, and the same for the same view."""

import pytest
import torch

from cmapkd.pyramid.sampling import FLAT, importance, inclusion, likeness, pps_places, starts, top_places


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def even_starts(n: int) -> torch.Tensor:
    """All starts of a fine even grid: the expectation over a uniform start, without noise."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def test_the_mean_error_of_sampled_tokens_is_the_importance_weighted_mean_in_expectation():
    q, errors = importance(draw(0, 1, 30) - 0.3), draw(1, 30) ** 2
    assert float((6 * q).max()) < 1, "the claim is for an importance that no cap touches"
    places = pps_places(q.expand(20_000, -1), 6, even_starts(20_000))
    assert float(errors[places].mean()) == pytest.approx(float((q[0] * errors).sum()), rel=1e-3)
    assert abs(float(errors[top_places(q, 6)[0]].mean() / (q[0] * errors).sum()) - 1) > 0.05, (
        "top-k must be biased here"
    )


def test_each_token_is_in_as_often_as_m_q_says():
    q = importance(draw(0, 1, 30) - 0.3)
    counts = pps_places(q.expand(20_000, -1), 6, even_starts(20_000)).flatten().bincount(minlength=30) / 20_000
    torch.testing.assert_close(counts.double(), 6 * q[0], atol=2e-4, rtol=0)


def test_a_token_that_is_more_than_certain_is_certain_and_the_others_share_what_is_left():
    q = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    wanted = torch.tensor([[1.0, 1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(inclusion(q, 2), wanted)
    skewed = torch.tensor([[0.6, 0.3, 0.05, 0.05]], dtype=torch.float64)  # the cap of one lifts the next over it
    torch.testing.assert_close(inclusion(skewed, 3), torch.tensor([[1.0, 1.0, 0.5, 0.5]], dtype=torch.float64))


@pytest.mark.parametrize("count", [1, 5, 15, 16, 40])
def test_no_token_is_taken_twice_and_all_are_taken_where_there_are_no_more(count):
    places = pps_places(importance(draw(0, 200, 16) - 0.5), count, draw(1, 200))
    assert places.shape == (200, min(count, 16)) and bool((places.diff(dim=1) > 0).all())
    assert int(places.min()) >= 0 and int(places.max()) <= 15


def test_a_quarter_of_the_importance_is_even_so_that_background_is_seen():
    alike = torch.tensor([[1.0, -1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]])
    q = importance(alike)
    torch.testing.assert_close(q.sum(1), torch.ones(2, dtype=torch.float64))
    assert float(q[0, 1]) == pytest.approx(FLAT / 4, rel=1e-5)
    torch.testing.assert_close(q[1], torch.full((4,), 0.25, dtype=torch.float64))


def test_a_views_sample_starts_at_the_same_place_in_every_run_and_views_differ():
    samples, views = torch.arange(500).repeat_interleave(2), torch.tensor([0, 1]).repeat(500)
    found = starts(samples, views)
    assert torch.equal(found, starts(samples, views)) and len(found.unique()) == 1000
    assert float(found.min()) >= 0 and float(found.max()) < 1 and abs(float(found.mean()) - 0.5) < 0.05


def test_the_top_places_are_the_tokens_most_like_the_summary_whatever_their_norm():
    summary, tokens = draw(0, 1, 8) - 0.5, draw(1, 1, 10, 8) - 0.5
    tokens[0, 3], tokens[0, 7] = 0.1 * summary[0], 5 * summary[0]
    assert top_places(likeness(tokens, summary), 2).tolist() == [[3, 7]]
