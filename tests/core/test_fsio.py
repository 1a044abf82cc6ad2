"""Durable writes: whole or not at all under every failed primitive, every kill and every legal power loss."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError
from cmapkd.core.primitives import OS
from tests.core.crash_states import Folder, Recorder, build, kill_state, power_loss_states
from tests.core.dying import Unsynced

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT)
OPERATIONS = {name for name in vars(OS) if not name.startswith("_")}


class Failing(Unsynced):
    """Fails the n-th primitive from now on with an errno; a failed write has written a part."""

    def __init__(self, n: int, number: int) -> None:
        self.left, self.number, self.failed = n, number, False

    def __getattribute__(self, name):
        real = object.__getattribute__(self, name)
        if name not in OPERATIONS:
            return real

        def call(*args):
            if self.failed or self.left > 0:
                self.left -= 1
                return real(*args)
            self.failed = True
            if name == "write":
                real(args[0], args[1][:3])
            if name == "close":
                real(*args)
            raise OSError(self.number, os.strerror(self.number))

        return call


def every_failure(monkeypatch, number, act):
    """Run `act` with its first, second, … primitive failing; yields the error of each, and stops where none failed."""
    for n in range(1000):
        failing = Failing(n, number)
        monkeypatch.setattr(fsio, "system", failing)
        try:
            act()
            error = None
        except DiskError as raised:
            error = raised
        monkeypatch.setattr(fsio, "system", Unsynced())
        yield error
        if not failing.failed:
            assert n >= 3
            monkeypatch.setattr(fsio, "system", OS())
            return


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


def generations(root: Path, acknowledge, steps: int = 20) -> None:
    """Generations of two files and a manifest, the newest two kept, and a file replaced along with each."""
    fsio.make_folder(root / "run" / "checkpoints")
    for step in range(steps):
        temporary = root / "run" / "checkpoints" / f"{step // 2:03d}.tmp.{os.getpid()}"
        fsio.make_folder(temporary)
        content = [f"{name}{step}".encode() * 9 for name in "ab"]
        hashes = [fsio.write_bytes(temporary / name, data) for name, data in zip("ab", content, strict=True)]
        fsio.write_json(temporary / "MANIFEST.json", hashes)
        final = root / "run" / "checkpoints" / f"{step // 2:03d}"  # every second one replaces the one before
        fsio.commit_dir(temporary, final)
        fsio.write_json(root / "run" / "state.json", step)
        acknowledge(step)
        if step % 2 and step > 4:
            fsio.retire_dir(root / "run" / "checkpoints" / f"{step // 2 - 2:03d}")


def fault_of(state: dict, acknowledged: int) -> str | None:
    """What is wrong with a state after the sweep that every start begins with; None when nothing is."""
    seen = {name: content for name, content in state.items() if content is not None}
    file = seen.get("run/state.json")
    if file is None:
        if acknowledged >= 0:
            return "the file is lost"
    elif not file.endswith(b"\n") or not file[:-1].isdigit():
        return "the file is corrupt"
    elif int(file) < acknowledged:
        return "the file is older than what was acknowledged"
    steps = [-1]
    # As sweep_temporaries does: what was set aside gets its name back where no successor has it.
    folders = {name: name for name, content in state.items() if content is None and name.count("/") == 2}
    for name in list(folders):
        final, _, rest = name.partition(".old.")
        if rest.isdigit() and final not in folders:
            folders[final] = name
    for name, place in folders.items():
        if "." in name:
            continue
        manifest = seen.get(f"{place}/MANIFEST.json")
        parts = [seen.get(f"{place}/{part}") for part in "ab"]
        if manifest is None or None in parts or manifest != fsio.json_bytes([sha256(p).hexdigest() for p in parts]):
            return f"generation {name} is corrupt"
        steps.append(int(parts[0][1 : len(parts[0]) // 9]))
    return "an acknowledged generation is lost" if max(steps) < acknowledged else None


def simulate(tmp_path: Path, monkeypatch, without: str | None = None) -> tuple[int, int, list[str]]:
    """(kill states, power-loss states, faults) of `generations`, with one primitive left out if wanted."""
    rng, acknowledged, seen, faults = random.Random(0), [-1], [0, 0], []

    def after(disk: Folder) -> None:
        for kind, states in enumerate(([kill_state(disk)], power_loss_states(disk, rng))):
            for state in states:
                seen[kind] += 1
                fault = fault_of(state, acknowledged[0])
                faults.extend([fault] if fault else [])

    recorder = Recorder(tmp_path, after)
    if without:
        monkeypatch.setattr(recorder, without, lambda _: None)
    monkeypatch.setattr(fsio, "system", recorder)
    generations(tmp_path, lambda step: acknowledged.__setitem__(0, step), 4 if without else 20)
    return seen[0], seen[1], faults


def test_no_legal_state_after_a_power_loss_is_corrupt_or_older_than_acknowledged(tmp_path, monkeypatch):
    killed, lost, faults = simulate(tmp_path, monkeypatch)
    assert not faults
    assert killed > 500 and lost >= 10_000


def test_a_committed_folder_keeps_the_names_that_nobody_synced(tmp_path, monkeypatch):
    last: list[Folder] = []
    recorder = Recorder(tmp_path, last.append)
    monkeypatch.setattr(fsio, "system", recorder)
    fsio.make_folder(tmp_path / "draft")
    recorder.fsync(recorder.create(tmp_path / "draft" / "a"))
    fsio.commit_dir(tmp_path / "draft", tmp_path / "final")
    assert all(state == {"final": None, "final/a": b""} for state in power_loss_states(last[-1], random.Random(0)))


@pytest.mark.parametrize("primitive", ["fsync", "sync_folder"])
def test_the_simulator_finds_the_corruption_that_a_missing_sync_allows(tmp_path, monkeypatch, primitive):
    assert len(simulate(tmp_path, monkeypatch, without=primitive)[2]) > 100


def test_the_simulated_states_are_what_the_real_sweep_and_reader_see(tmp_path, monkeypatch):
    states: dict[str, dict] = {}
    rng = random.Random(1)

    def after(disk: Folder) -> None:
        for state in power_loss_states(disk, rng):
            states.setdefault(repr(state), state)

    (tmp_path / "work").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(fsio, "system", Recorder(tmp_path / "work", after))
        generations(tmp_path / "work", lambda step: None)
    for k, state in enumerate(rng.sample(list(states.values()), 100)):
        root = tmp_path / str(k)
        root.mkdir()
        build(state, root)
        fsio.sweep_temporaries(root)
        for folder in root.glob("run/checkpoints/*"):
            stated = json.loads((folder / "MANIFEST.json").read_text())
            assert folder.name.isdigit() and stated == [fsio.sha256_file(folder / name) for name in "ab"]
