"""Durable writes are atomic, whichever system call fails."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError
from cmapkd.core.primitives import OS
from tests.core.failing import every_failure

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def draft(folder: Path, text: bytes) -> Path:
    fsio.make_folder(folder)
    fsio.write_bytes(folder / "a", text)
    return folder


def test_bytes_chunks_and_json_come_back_and_the_hash_is_told(tmp_path):
    told = fsio.write_bytes(tmp_path / "a", (part for part in (b"on", b"e")))
    assert (tmp_path / "a").read_bytes() == b"one" and told == fsio.sha256_file(tmp_path / "a")
    fsio.write_bytes(tmp_path / "a", [memoryview(b"tw"), b"o"])
    assert (tmp_path / "a").read_bytes() == b"two"
    fsio.write_json(tmp_path / "b", {"z": 1, "a": [2.5, None]})
    assert json.loads((tmp_path / "b").read_text()) == {"a": [2.5, None], "z": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    class Short(OS):
        write = staticmethod(lambda descriptor, data: os.write(descriptor, data[:7]))

    monkeypatch.setattr(fsio, "system", Short())
    fsio.write_bytes(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


@pytest.mark.parametrize("number", ERRNOS)
def test_any_failed_primitive_leaves_the_old_or_the_new_file_and_no_temporary(tmp_path, monkeypatch, number):
    path = tmp_path / "a"
    for error in every_failure(monkeypatch, number, lambda: fsio.write_bytes(path, b"new" * 10)):
        if error is not None:
            assert "\n" not in str(error) and "intact" in str(error) and "a" in str(error) and error.code == 5
        assert tree(tmp_path) in ([{"a": b"old"}, {"a": b"new" * 10}] if path.exists() else [{}])
        fsio.write_bytes(path, b"old")


@pytest.mark.parametrize("number", ERRNOS)
def test_any_failed_primitive_leaves_the_old_or_the_new_folder(tmp_path, monkeypatch, number):
    final, temporary = tmp_path / "final", tmp_path / f"final.tmp.{os.getpid()}"
    draft(final, b"old")
    for _ in every_failure(monkeypatch, number, lambda: fsio.commit_dir(draft(temporary, b"new"), final)):
        assert tree(final) in ({"a": b"old"}, {"a": b"new"})
        fsio.sweep_temporaries(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["final"]
        fsio.write_bytes(final / "a", b"old")


def test_a_full_disk_is_told_in_bytes(tmp_path, monkeypatch):
    for error in every_failure(monkeypatch, errno.ENOSPC, lambda: fsio.write_bytes(tmp_path / "a", bytes(2_500_000))):
        if error is not None:
            assert "disk full: 2.500 MB needed" in str(error) and "MB free" in str(error)


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting needs root")
def test_a_disk_that_is_really_full_keeps_the_old_file(tmp_path):
    libc = ctypes.CDLL(None, use_errno=True)
    small = tmp_path / "small"
    small.mkdir()
    if libc.mount(b"none", bytes(small), b"tmpfs", 0, b"size=1m"):
        pytest.skip("no permission to mount")
    try:
        fsio.write_bytes(small / "a", bytes(600_000))
        with pytest.raises(DiskError, match=r"disk full: 0\.700 MB needed"):
            fsio.write_bytes(small / "a", b"x" * 700_000)
        assert tree(small) == {"a": bytes(600_000)}
    finally:
        libc.umount(bytes(small))


def test_an_exception_of_the_producer_leaves_no_temporary(tmp_path):
    def chunks():
        yield b"begun"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fsio.write_bytes(tmp_path / "a", chunks())
    assert not list(tmp_path.iterdir())


def test_lines_are_appended_and_a_failed_append_leaves_no_part_of_a_line(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    fsio.append_line(path, '{"step": 0}')
    for n, error in enumerate(every_failure(monkeypatch, errno.ENOSPC, lambda: fsio.append_line(path, '{"step": 9}'))):
        assert set(path.read_text().splitlines()) <= {'{"step": 0}', '{"step": 9}'}, n
        assert path.read_text().endswith("\n") and (error is None or "disk full" in str(error))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b'{"a": 1}\n{"a": 2}\n', b'{"a": 1}\n{"a": 2}\n'),
        (b'{"a": 1}\n{"a"', b'{"a": 1}\n'),
        (b'{"a": 1}\n\0\0\0\n{"a": 3}\n{', b'{"a": 1}\n{"a": 3}\n'),
        (b'{"a"', b""),
        (b"", b""),
    ],
)
def test_a_torn_log_is_repaired(tmp_path, text, kept):
    path = tmp_path / "log.jsonl"
    path.write_bytes(text)
    assert fsio.repair_jsonl(path) == len(text) - len(kept)
    assert path.read_bytes() == kept


def test_what_dead_writers_left_is_swept_and_what_living_ones_write_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f"a.tmp.{dead.pid}", f"b.trash.{dead.pid}/c/d", f"e/f.old.{dead.pid}/g", f"k.old.{dead.pid}/g"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "k").mkdir()
    alive = (f"a.tmp.{os.getppid()}", "a.tmp.txt", "plain")
    for name in alive:
        (tmp_path / name).write_bytes(b"x")
    fsio.sweep_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*alive, "e", "k"])
    assert (tmp_path / "e/f/g").read_bytes() == b"x"  # a folder set aside, whose successor never came
    fsio.sweep_temporaries(tmp_path / "is not there")


def test_free_bytes_of_a_path_that_is_not_there_yet(tmp_path):
    assert fsio.free_bytes(tmp_path / "a" / "b") > 0
    assert fsio.free_bytes(Path("nowhere/yet")) > 0
