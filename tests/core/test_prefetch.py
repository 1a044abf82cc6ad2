"""Prefetch: items in order, at most `depth` ahead, errors where they belong, and nothing left running."""

import os
import threading

import pytest

from cmapkd.core.prefetch import prefetch, reader_threads


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes")
@pytest.mark.parametrize(("may_run_on", "threads"), [({3}, 1), ({0, 1, 5}, 2), (set(range(64)), 8)])
def test_a_pinned_process_reads_with_the_processors_it_has(monkeypatch, may_run_on, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: may_run_on)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert reader_threads() == threads


@pytest.mark.parametrize("threads", [1, 4])
def test_items_come_in_order_and_an_error_is_raised_when_its_item_is_due(threads):
    def make(k):
        if k == 5:
            raise ValueError("five")
        return k * k

    stream = prefetch(make, [1, 3, 5, 7], threads)
    assert [next(stream), next(stream)] == [1, 9]
    with pytest.raises(ValueError, match="five"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("depth", [1, 2])
def test_at_most_depth_items_are_made_before_they_are_asked_for(depth):
    begun = []
    stream = prefetch(lambda k: begun.append(k) or k, range(100), depth=depth)
    for k in range(20):
        assert next(stream) == k and max(begun) <= k + depth
    stream.close()
    assert max(begun) <= 19 + depth


def test_closing_early_cancels_what_has_not_begun_and_waits_for_what_has():
    entered, leave, made = threading.Event(), threading.Event(), []

    def make(k):
        if k == 1:
            entered.set()
            leave.wait(60)
        made.append(k)

    stream = prefetch(make, range(100), depth=3)
    next(stream)
    assert entered.wait(60)
    closing = threading.Thread(target=stream.close)
    closing.start()
    leave.set()
    closing.join(60)
    assert not closing.is_alive() and set(made) <= {0, 1, 2, 3}
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
