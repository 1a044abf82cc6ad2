import os

import pytest

from cmapkd.core import prefetch as ahead


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes")
@pytest.mark.parametrize(("may_run_on", "threads"), [({3}, 1), ({0, 1, 5}, 2), (set(range(64)), 8)])
def test_a_pinned_process_reads_with_the_processors_it_has(monkeypatch, may_run_on, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: may_run_on)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert ahead.readers() == threads
