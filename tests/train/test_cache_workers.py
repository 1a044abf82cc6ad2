"""Several workers on one cache end with the files that one worker makes; a dead one does not end the others."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

import toy
import world
from cmapkd.cli.main import dispatch
from cmapkd.config.load import dump_config
from cmapkd.core import claims, fsio
from cmapkd.core.errors import CmapkdError, DiskError, PeerLostError
from cmapkd.core.log import NO_PROGRESS
from cmapkd.train.setup import cache_workers
from cmapkd.train.setup.cache_workers import cache_by_workers
from cmapkd.train.setup.prepare import build_cache
from tests.core.dying import Dying, Unsynced, primitives_of


@pytest.fixture
def config(root, monkeypatch):
    """A config with everything that a cache may hold, of a folder."""
    (root / "small.json").write_text(json.dumps(toy.config(128, width=32, size=32, context=24)))
    monkeypatch.setattr("cmapkd.towers.named.SHIPPED", root)
    monkeypatch.setattr(claims, "POLL", (0.001, 0.01))
    student = {"model": "small", "tokenizer": "teacher", "inherit": True}
    return lambda path, **over: world.config(
        root, student=student, cache__path=str(path), cache__pixels=True, cache__calibration_samples=24, **over
    )


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def started(config, system, log: Path) -> int:
    """A process that builds the cache with these system calls; its messages go to the log."""
    if (pid := os.fork()) == 0:
        fsio.system = system
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        try:
            build_cache(config)
        except CmapkdError as error:
            os._exit(error.code)
        os._exit(0)
    return pid


def test_workers_killed_anywhere_leave_the_files_that_one_worker_makes(config, tmp_path):
    total = primitives_of(lambda: build_cache(config(tmp_path / "one")))
    expected = digests(tmp_path / "one")
    assert {name.split("/")[0].split("-")[0] for name in expected} == {
        "calibration.json", "calibration.safetensors", "image", "inherited", "pixels", "teacher.json", "text",
    }  # fmt: skip
    for part in (0.0, 0.005, 0.02, 0.3, 0.7, 0.99):
        path, log = tmp_path / f"{part}", tmp_path / f"{part}.log"
        systems = [Dying(int(part * total)), Unsynced(), Unsynced()]
        pids = [started(config(path), system, log) for system in systems]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert codes[0] in (-signal.SIGKILL, 0) and codes[1:] == [0, 0], log.read_text()
        if left := list(path.rglob("build")):  # it died after the others had ended
            assert len(left) == 1 and codes[0], log.read_text()
            build_cache(config(path))
        assert digests(path) == expected, part
        assert log.read_text().count("inheriting the student") <= 2 >= log.read_text().count("calibrating the teacher")


def test_a_worker_with_another_config_is_refused_with_exit_code_4(config, tmp_path):
    log = tmp_path / "log"
    path = tmp_path / "cache"
    pids = [started(config(path, cache__rank=rank), Unsynced(), log) for rank in (32, 16)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sorted(codes) == [0, 4], log.read_text()


def script(monkeypatch, text: str) -> None:
    """Workers run this instead of `cmapkd cache`; `rank` is the worker's number."""
    code = f"import os, signal, sys; rank = int(os.environ['LOCAL_RANK'])\n{text}"
    monkeypatch.setattr(cache_workers, "COMMAND", (sys.executable, "-c", code))


def test_the_command_starts_workers_that_share_the_processors_and_says_each_line_once(
    root, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("OMP_NUM_THREADS")
    script(monkeypatch, f"assert '{NO_PROGRESS}' in os.environ; print('read', sys.argv[1][-11:], file=sys.stderr)\n"
           "print(rank, sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], file=sys.stderr)")  # fmt: skip
    (tmp_path / "c.yaml").write_text(dump_config(world.config(root)))
    assert dispatch(["cache", "--config", str(tmp_path / "c.yaml"), "--workers", "3"]) == 0
    out, err = capsys.readouterr()
    every = sorted(os.sched_getaffinity(0))
    shares = [every[rank % len(every) :: 3] for rank in range(3)]
    assert out == f"{root / 'cache'}\n" and err.count("read config.yaml") == 1
    assert sorted(err.splitlines())[:3] == [f"{rank} {share} {len(share)}" for rank, share in enumerate(shares)]


def test_a_dead_worker_is_named_and_the_others_go_on(root, tmp_path, monkeypatch, capsys):
    ready = tmp_path / "told"
    wait = f"import time, pathlib\nwhile not pathlib.Path({str(ready)!r}).exists(): time.sleep(0.01)"
    script(monkeypatch, f"if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n{wait}")
    monkeypatch.setattr(cache_workers, "say", lambda line: (ready.touch(), print(line, file=sys.stderr)))
    cache_by_workers(world.config(root), 2)
    assert "was killed by signal 9 (Killed); 1 of 2 go on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", PeerLostError, r"worker 0 .* signal 9 .*; worker 1 .* signal 9"),
        ("sys.exit(5)", DiskError, "worker 1 .* ended with exit code 5; what they wrote is kept"),
        ("sys.exit(rank + 4)", PeerLostError, "exit code 4; worker 1"),
    ],
)
def test_when_all_workers_are_lost_they_are_named_with_the_exit_code_that_they_share(
    root, monkeypatch, text, error, words
):
    script(monkeypatch, text)
    with pytest.raises(error, match=words):
        cache_by_workers(world.config(root), 2)
