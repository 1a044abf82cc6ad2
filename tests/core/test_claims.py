"""A claim has one holder at a time; the dead lose theirs, on this machine at once and on others when they stop to beat."""

from __future__ import annotations

import errno
import fcntl
import os
import signal

import pytest

from cmapkd.core import claims as module
from cmapkd.core.claims import STALE, Claims
from cmapkd.core.errors import DiskError
from waiting import until


@pytest.fixture
def clock(monkeypatch):
    """The watcher's monotonic clock, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def held_elsewhere(folder, beat=0):
    """A claim of another machine, whose locks are not seen here."""
    folder.mkdir(exist_ok=True)
    path = folder / "shard.1"
    path.write_text(f"other-host some-boot\nprocess 7 on other-host\n{beat:020d}\n")
    return path


def test_of_many_processes_one_gets_a_claim_and_the_next_when_it_is_given_back(tmp_path):
    folder, wins = tmp_path / "build", tmp_path / "wins"
    wins.touch()
    pids = []
    for _ in range(8):
        if (pid := os.fork()) == 0:
            for _ in range(20):
                if (claim := Claims(folder).take("shard")) is not None:
                    before = wins.read_bytes()
                    wins.write_bytes(before + b"x")
                    claim.release()
                    os._exit(0)
                until(lambda: False, 0.02)
            os._exit(1)
        pids.append(pid)
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    assert len(wins.read_bytes()) == codes.count(0) > 1, "no win was lost, so no two were inside at once"
    assert not folder.exists()


def test_a_killed_holder_on_this_machine_is_taken_over_from_at_once_by_name(tmp_path, capsys):
    folder, ready = tmp_path / "store" / "build", tmp_path / "ready"
    if (pid := os.fork()) == 0:
        claim = Claims(folder).take("shard 3")
        assert claim is not None
        ready.touch()
        signal.pause()
    try:
        assert until(ready.exists) and Claims(folder).take("shard 3") is None
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    claim = Claims(folder).take("shard 3")
    assert claim is not None and f"store: shard 3 is taken over from process {pid} on " in capsys.readouterr().err
    claim.release()
    assert not folder.exists(), "the dead holder's file goes with its successor's"


@pytest.mark.parametrize("skew", [-1e6, 0.0, 1e6], ids=["its clock is behind", "equal clocks", "its clock is ahead"])
def test_a_holder_on_another_machine_is_dead_when_its_counter_stands_still_whatever_its_clock_says(
    tmp_path, clock, skew
):
    folder, watcher = tmp_path / "build", Claims(tmp_path / "build")
    path = held_elsewhere(folder)
    os.utime(path, (1.7e9 + skew, 1.7e9 + skew))
    assert watcher.take("shard") is None
    for beat in range(1, 4):  # alive: the counter moves
        clock[0] += STALE - 1
        held_elsewhere(folder, beat)
        assert watcher.take("shard") is None
    clock[0] += STALE - 1
    assert watcher.take("shard") is None
    clock[0] += 2
    claim = watcher.take("shard")
    assert claim is not None and claim.path.name == "shard.2"
    claim.release()


def test_of_two_watchers_of_a_dead_holder_one_takes_over(tmp_path, clock):
    held_elsewhere(tmp_path)
    watchers = [Claims(tmp_path), Claims(tmp_path)]
    assert [watcher.take("shard") for watcher in watchers] == [None, None]
    clock[0] += STALE + 1
    taken = [watcher.take("shard") for watcher in watchers]
    assert taken[0] is not None and taken[1] is None
    taken[0].release()


def test_a_holder_that_was_stopped_too_long_learns_that_it_was_taken_over(tmp_path, monkeypatch):
    claim = Claims(tmp_path / "build").take("shard")
    assert claim is not None and claim.held()
    (tmp_path / "build" / "shard.2").touch()  # by a watcher on another machine
    assert not claim.held()
    claim.release()


def test_the_holder_beats_and_where_there_are_no_locks_the_beats_alone_decide(tmp_path, clock, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(module, "BEAT", 0.01)
    claim, watcher = Claims(tmp_path).take("shard"), Claims(tmp_path)
    assert claim is not None and watcher.take("shard") is None
    before = claim.path.read_bytes()
    assert until(lambda: claim.path.read_bytes() != before)
    claim.ended.set()  # it dies: no more beats
    assert until(lambda: not [t for t in module.threading.enumerate() if t.name == "beat shard"])
    assert watcher.take("shard") is None
    clock[0] += STALE + 1
    assert watcher.take("shard") is not None


def test_a_turn_waits_and_says_for_whom(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "POLL", (0.001, 0.002))
    claim = Claims(tmp_path).take("calibration")
    assert claim is not None
    monkeypatch.setattr(module.time, "sleep", lambda seconds: seconds < 0.002 or said() and claim.release())

    def said():
        return "waiting for the calibration: process" in "".join(lines.append(capsys.readouterr().err) or lines)

    lines: list[str] = []
    with Claims(tmp_path).turn("calibration", "the calibration"):
        assert said() and Claims(tmp_path).take("calibration") is None


def test_a_full_disk_is_a_disk_error(tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.fsio.system, "create_new", full, raising=False)
    with pytest.raises(DiskError, match="disk full"):
        Claims(tmp_path).take("shard")
