"""The benchmark runner: targets are told from misses, and a benchmark that raises is not passed over."""

from __future__ import annotations

import json
import sys
import types

import pytest

from benchmarks import __main__ as runner
from benchmarks import on_gpu


@pytest.fixture
def suite(monkeypatch):
    module = types.ModuleType("toy_suite")
    module.good = lambda quick: [  # type: ignore[attr-defined]
        {"id": "x1", "name": "fast", "ratio": 5.0, "target": 4.0, "better": ">=", "detail": f"quick {quick}"},
        {"id": "x2", "name": "slow", "ratio": 1.2, "target": 1.0, "better": "<=", "detail": ""},
    ]
    module.bad = lambda quick: 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_suite", module)
    monkeypatch.setattr(runner, "SUITES", {"x": "toy_suite:good", "y": "toy_suite:bad"})


def test_rows_are_printed_against_their_targets_and_kept_with_what_repeats_them(suite, tmp_path, capsys):
    out = tmp_path / "deep" / "r.jsonl"
    assert runner.main(["--only", "x", "--quick", "--out", str(out)]) == 0
    fast, slow = capsys.readouterr().out.splitlines()
    assert "5.000 >= 4" in fast and "ok" in fast and "quick True" in fast and "miss" in slow
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["ok"] for row in rows] == [True, False]
    assert rows[0]["command"].startswith("python -m benchmarks --only x --quick") and rows[0]["versions"]["torch"]


def test_a_benchmark_that_raises_ends_the_run_with_1_and_the_others_are_still_measured(suite, tmp_path, capsys):
    assert runner.main(["--only", "y,x", "--out", str(tmp_path / "r.jsonl")]) == 1
    out, err = capsys.readouterr()
    assert "5.000 >= 4" in out and "ZeroDivisionError" in err


def test_a_letter_may_stand_for_several_and_each_runs_once(suite, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "SUITES", {"x": "toy_suite:good", "z": "toy_suite:good toy_suite:bad"})
    assert runner.main(["--only", "x,z", "--out", str(tmp_path / "r.jsonl")]) == 1
    out, err = capsys.readouterr()
    assert out.count("5.000 >= 4") == 1 and "ZeroDivisionError" in err


def test_an_unknown_letter_is_refused(suite):
    with pytest.raises(SystemExit):
        runner.main(["--only", "z"])


def test_the_benchmark_for_a_gpu_runs_small_on_a_cpu_and_says_what_repeats_each_line(capsys):

    on_gpu.main(["--toy"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    plain = [row["kind"] for row in rows if "kind" in row and not row.get("compiled")]
    assert plain == ["plain", "cached", "online", "teacher", "end to end"]
    assert [row["kind"] for row in rows if row.get("compiled") and "kind" in row] == plain[:4]
    assert all(row["ms"] > 0 for row in rows if "kind" in row) and all("on_gpu" in row["command"] for row in rows)
    real = next(row for row in rows if row.get("kind") == "end to end")
    assert 0 <= real["waiting_for_data"] < 1 and real["steps"] >= 2
