"""The sample order is a permutation that depends on seed and epoch alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cmapkd.core.order import keyed_hash, permute, positions

GOLDEN_ORDER = [4, 7, 3, 1, 6, 2, 0, 5]
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
