"""A run that decodes on several processes is the run that decodes on one thread, and ends like it."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import world
from cmapkd.data.loader import Loader
from cmapkd.data.workers import pool
from cmapkd.train.runs.distill import distill

SHORT = {"train__steps": 4, "data__val": None, "eval__every": None, "data__ram_mb": 0}


def test_losses_and_order_are_the_same_with_several_decoding_processes(root, tmp_path):
    runs = [distill(world.config(root, run=str(tmp_path / str(n)), data__workers=n, **SHORT)) for n in (1, 2)]
    told = [
        [{key: value for key, value in row.items() if key != "waited"} for row in world.rows(run) if row["kind"] == "train"]
        for run in runs
    ]  # fmt: skip
    assert len(told[0]) == 4 and told[0] == told[1]
    assert world.rows(runs[0])[-1]["ledger"] == world.rows(runs[1])[-1]["ledger"]


def test_a_signal_while_the_step_waits_for_pictures_ends_the_run_with_a_checkpoint_and_no_process(
    root, tmp_path, monkeypatch
):
    started, real_start, real_make = [], pool.Worker.__init__, Loader.make

    def start(self):
        real_start(self)
        started.append(self.process)

    def make(self, step, decode):
        if step == 1 and threading.current_thread() is not threading.main_thread():
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(0.2)  # the main thread waits for this batch meanwhile
        return real_make(self, step, decode)

    monkeypatch.setattr(pool.Worker, "__init__", start)
    monkeypatch.setattr(Loader, "make", make)
    config = world.config(root, run=str(tmp_path / "run"), data__workers=2, **SHORT)
    with pytest.raises(SystemExit) as ended:
        distill(config)
    assert ended.value.code == 128 + signal.SIGTERM
    assert len(started) == 2 and [process.wait(60) for process in started] == [0, 0]
    assert not [t for t in threading.enumerate() if t.name.startswith(("prefetch", "decoding"))]
    monkeypatch.undo()
    done = distill(config, resume=True)
    assert world.steps_of(done) == [1, 2, 3, 4]
