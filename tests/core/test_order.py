"""The sample order is a permutation that depends on seed and epoch alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cmapkd.core.order import ShardOrder, keyed_hash, permute, positions

GOLDEN_ORDER = [4, 7, 3, 1, 6, 2, 0, 5]
SHARDS_GOLDEN = [2, 5, 1, 0, 8, 3, 7, 6, 4]
GOLDEN_HASH = 3034334815109854690
seeds = st.integers(0, 2**63)


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 700), seed=seeds, epoch=st.integers(0, 10_000))
def test_every_sample_comes_exactly_once_an_epoch(n: int, seed: int, epoch: int) -> None:
    assert sorted(permute(np.arange(n), n, seed, epoch)) == list(range(n))


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 700), seed=seeds, epoch=st.integers(0, 10_000))
def test_the_position_of_every_sample_is_found_again(n: int, seed: int, epoch: int) -> None:
    assert positions(permute(np.arange(n), n, seed, epoch), n, seed, epoch).tolist() == list(range(n))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(2, 10**9), seed=seeds, start=st.integers(0, 10**9))
def test_a_position_is_mapped_alone_as_it_is_in_company(n: int, seed: int, start: int) -> None:
    places = (start + np.arange(20)) % n
    together = permute(places, n, seed, 3)
    assert together.dtype == np.int64 and together.min() >= 0 and together.max() < n
    assert [int(permute(places[k : k + 1], n, seed, 3)[0]) for k in range(20)] == together.tolist()


def test_another_seed_or_epoch_is_another_order() -> None:
    orders = [permute(np.arange(1000), 1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for a in range(4):
        for b in range(a):
            assert (orders[a] == orders[b]).mean() < 0.02


def test_neighbours_are_torn_apart() -> None:
    order = permute(np.arange(5000), 5000, 0, 0)
    steps = np.abs(np.diff(order))
    assert abs(np.corrcoef(np.arange(5000), order)[0, 1]) < 0.06
    assert 1400 < steps.mean() < 1950  # a third of n for a random order


def test_the_caller_keeps_its_indices() -> None:
    indices = np.arange(10)
    permute(indices, 10, 0, 0)
    assert indices.tolist() == list(range(10))


def test_the_order_is_the_same_in_every_version() -> None:
    assert permute(np.arange(8), 8, 1, 2).tolist() == GOLDEN_ORDER
    assert keyed_hash(1, 2, 3) == GOLDEN_HASH


def test_a_hash_depends_on_the_position_of_its_values() -> None:
    assert (
        len(
            {
                keyed_hash(1, 2, 3),
                keyed_hash(1, 3, 2),
                keyed_hash(12, 3),
                keyed_hash(1, 23),
                keyed_hash(1, 2),
                keyed_hash(1, -2),
            }
        )
        == 6
    )


bounds = st.lists(st.integers(1, 40), min_size=1, max_size=30).map(
    lambda sizes: np.cumsum([0, *sizes]).astype(np.int64)
)


@settings(max_examples=150, deadline=None)
@given(bounds=bounds, window=st.integers(1, 200), seed=seeds, epoch=st.integers(0, 1000))
def test_an_order_by_shards_shows_every_sample_once_and_any_position_alone(
    bounds: np.ndarray, window: int, seed: int, epoch: int
) -> None:
    order, n = ShardOrder(bounds, window), int(bounds[-1])
    whole = order(np.arange(n), seed, epoch)
    assert whole.dtype == np.int64 and sorted(whole.tolist()) == list(range(n))
    fresh = ShardOrder(bounds, window)
    for k in range(0, n, 7):
        assert int(fresh(np.array([k]), seed, epoch)[0]) == whole[k]


@settings(max_examples=60, deadline=None)
@given(bounds=bounds, window=st.integers(1, 60), seed=seeds)
def test_a_sample_moves_less_than_a_window_from_its_place_in_the_sequence_of_whole_shards(
    bounds: np.ndarray, window: int, seed: int
) -> None:
    n = int(bounds[-1])
    sequence = ShardOrder(bounds, 1)(np.arange(n), seed, 3)  # a window of one sample shuffles nothing
    place = np.empty(n, np.int64)
    place[sequence] = np.arange(n)
    moved = np.abs(place[ShardOrder(bounds, window)(np.arange(n), seed, 3)] - np.arange(n))
    assert moved.max() < window
    shard = np.searchsorted(bounds, sequence, side="right")
    assert (np.diff(shard) != 0).sum() == len(bounds) - 2  # each shard is one run
    for run in np.split(sequence, np.flatnonzero(np.diff(shard)) + 1):
        assert np.array_equal(run, np.arange(run[0], run[0] + len(run)))


def test_a_window_touches_few_shards_where_a_random_order_touches_all() -> None:
    bounds, window = np.arange(0, 50_001, 500), 2000
    by_shards, shards = ShardOrder(bounds, window), []
    for order in (lambda at: by_shards(at, 5, 2), lambda at: permute(at, 50_000, 5, 2)):
        parts = [order(np.arange(first, first + window)) // 500 for first in range(0, 50_000, window)]
        shards.append(max(len(np.unique(part)) for part in parts))
    assert shards[0] == 4 and shards[1] == 100


def test_another_seed_or_epoch_orders_shards_and_windows_anew() -> None:
    order = ShardOrder(np.arange(0, 1001, 50), 200)
    orders = [order(np.arange(1000), seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for a in range(4):
        for b in range(a):
            assert (orders[a] == orders[b]).mean() < 0.1
            assert (orders[a][::50] // 50 == orders[b][::50] // 50).mean() < 0.5


def test_the_order_by_shards_is_the_same_in_every_version() -> None:
    order = ShardOrder(np.array([0, 3, 5, 9]), 4)
    assert order(np.arange(9), 1, 2).tolist() == SHARDS_GOLDEN
