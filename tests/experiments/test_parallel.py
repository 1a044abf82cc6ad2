"""Parallel runs: the same results, errors of one run, dead processes, and a killed comparison."""

import os
import subprocess
import sys
import time

import pytest

import world
from cmapkd.config.load import dump_config
from cmapkd.core.errors import DataError, PeerLostError
from cmapkd.experiments.arms import Arm, run_arms
from cmapkd.experiments.parallel import run_parallel


def test_parallel_runs_equal_runs_one_after_the_other(root):
    config = world.config(root, train__steps=2, eval__every=None)
    alone = run_arms(config, [Arm("cmapkd")], range(2), [1.0], root / "alone")
    beside = run_arms(config, [Arm("cmapkd")], range(2), [1.0], root / "beside", jobs=2)
    assert [run.metrics for run in beside] == [run.metrics for run in alone]
    assert "student:" in (root / "beside" / "cmapkd-1.log").read_text()


def test_a_run_that_fails_beside_others_ends_the_comparison_with_its_own_line(root):
    config = world.config(root, train__steps=2, eval__every=None, data__val="nowhere.json")
    with pytest.raises(DataError, match=r"nowhere\.json"):
        run_arms(config, [Arm("cmapkd")], range(2), [1.0], root / "nowhere", jobs=2)


def test_a_process_that_dies_is_told_and_not_waited_for(tmp_path):
    with pytest.raises(PeerLostError, match="--jobs 2"):
        run_parallel(os._exit, [(1,), (1,)], [tmp_path / "a.log", tmp_path / "b.log"], 2)


SCRIPT = """
import sys
from pathlib import Path
from cmapkd.experiments.arms import Arm, run_arms
from cmapkd.config.load import load_config
if __name__ == "__main__":
    run_arms(load_config(Path(sys.argv[1])), [Arm("cmapkd")], range(2), [1.0], Path(sys.argv[2]), jobs=2)
"""


def test_a_killed_comparison_leaves_no_run_behind_but_each_at_a_checkpoint(root, tmp_path):
    config = world.config(root, train__steps=2000, eval__every=None, train__checkpoint_every=5)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "script.py").write_text(SCRIPT)
    out = tmp_path / "out"
    words = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "config.yaml"), str(out)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        started = [out / f"cmapkd-{seed}" / "checkpoints" for seed in range(2)]
        assert until(
            lambda: all(any(folder.glob("step-*")) for folder in started if folder.is_dir()) and started[0].is_dir()
        )
        process.kill()
    assert until(lambda: "stopped by signal" in (out / "cmapkd-0.log").read_text())


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not true():
        time.sleep(0.2)
    return true()
