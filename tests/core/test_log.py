"""Console lines that data cannot forge, progress with the right rate, and metrics as JSON lines."""

from __future__ import annotations

import json
import math

import pytest

from cmapkd.core import log


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    return now


def test_a_name_from_the_data_cannot_forge_a_line_or_a_colour(capsys):
    log.say("bad\nerror: all is lost\x1b[31m\r ünïcode 猫")
    assert capsys.readouterr().err == "bad\\nerror: all is lost\\x1b[31m\\r ünïcode 猫\n"


def test_away_from_a_terminal_progress_is_a_line_every_ten_seconds_and_one_at_the_end(clock, capsys):
    progress = log.Progress(100, "work")
    for step in range(1, 101):
        clock[0] += 0.5
        progress.update(step, "loss 1.0")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 5
        and lines[0] == "work 20/100  2.0/s  ETA 00:40  loss 1.0"
        and lines[-1].startswith("work 100/100")
    )


def test_a_resumed_run_counts_its_rate_from_where_it_went_on(clock, capsys):
    progress = log.Progress(1000, "work")
    clock[0] += 60
    for step in range(501, 600):
        progress.update(step)
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert "  1.0/s  ETA 07:" in lines[-1] or "  1.0/s  ETA 06:" in lines[-1]


def test_short_work_may_be_silent_and_long_work_not(clock, capsys, monkeypatch):
    monkeypatch.setattr(log.sys.stderr, "isatty", lambda: True, raising=False)
    for seconds, lines in ((4, 0), (60, 1)):
        progress = log.Progress(4, "work", quiet=5)
        for step in range(1, 5):
            clock[0] += seconds / 4
            progress.update(step)
        progress.close()
        err = capsys.readouterr().err
        assert err.count("\n") == lines and ("work 4/4" in err) == bool(lines)


def test_hours_are_written_as_hours(clock, capsys):
    progress = log.Progress(10_000, "work")
    for step in (1, 2):
        clock[0] += 11
        progress.update(step)
    assert "ETA 30:32:58" in capsys.readouterr().err.splitlines()[-1]


def test_on_a_terminal_a_line_of_text_does_not_run_into_the_progress_line(clock, capsys, monkeypatch):
    monkeypatch.setattr(log.sys.stderr, "isatty", lambda: True, raising=False)
    progress = log.Progress(10, "work")
    clock[0] += 1
    progress.update(1)
    log.say("saved")
    assert capsys.readouterr().err == "\r\x1b[Kwork 1/10  1.0/s  ETA 00:09\r\x1b[Ksaved\n"


def test_metrics_are_json_lines_in_which_nan_is_null(tmp_path):
    metrics = log.MetricsLog(tmp_path / "metrics.jsonl")
    metrics.write({"step": 1, "loss": math.nan, "nested": {"x": [math.inf, 1.5]}})
    metrics.write({"step": 2})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss": None, "nested": {"x": [None, 1.5]}}, {"step": 2}]


def test_a_torn_line_of_a_metrics_file_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste\n3\n{"step": 2}\n{"kind": "fin')
    assert log.read_rows(path) == [{"step": 1}, {"step": 2}]
