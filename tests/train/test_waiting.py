"""The share of the time that a step waits for its batch is measured, and written into the log."""

from __future__ import annotations

import time

import pytest

import world
from cmapkd.train.records import waiting
from cmapkd.train.records.waiting import Waiting
from cmapkd.train.runs.distill import distill


def clock(monkeypatch, *times: float) -> None:
    left = iter(times)
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: next(left))


def test_the_share_counts_the_time_in_next_alone_and_starts_anew_each_time(monkeypatch):
    # opened at 0; asked at 1, there at 4; row at 10; asked at 10, there at 11; row at 20
    clock(monkeypatch, 0, 1, 4, 10, 10, 11, 20)
    watch = Waiting()
    items = watch.on(k for k in "ab")
    assert next(items) == "a" and watch.share() == pytest.approx(0.3)
    assert next(items) == "b" and watch.share() == pytest.approx(0.1)
    assert watch.recently() == pytest.approx(4 / 20)


def test_leaving_early_closes_what_is_watched():
    closed = []

    def items():
        try:
            yield from range(9)
        finally:
            closed.append(True)

    watched = Waiting().on(items())
    next(watched)
    watched.close()
    assert closed == [True]


def test_a_run_that_starves_says_so_in_its_log_and_on_its_progress_line(root, tmp_path, monkeypatch, capsys):
    from cmapkd.data.loader import Loader

    real = Loader.make
    monkeypatch.setattr(Loader, "make", lambda *given: (time.sleep(0.3), real(*given))[1])
    shares = [row["waited"] for row in world.rows(distill(world.config(root, run=str(tmp_path / "run")))) if row["kind"] == "train"]  # fmt: skip
    assert len(shares) > 2 and all(0 <= share <= 1 for share in shares) and max(shares) > 0.2
    assert "waited" in capsys.readouterr().err
