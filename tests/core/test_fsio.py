import errno
import json
import os

import pytest

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError
from cmapkd.train import checkpoint


class Recorder(fsio.OS):
    """Does everything and writes down what a power loss could undo."""

    def __init__(self):
        self.log, self.names = [], {}

    def create(self, path):
        descriptor = super().create(path)
        self.names[descriptor] = str(path)
        self.log.append(("create", str(path)))
        return descriptor

    def write(self, descriptor, data):
        n = os.write(descriptor, data)
        self.log.append(("write", self.names[descriptor], bytes(data[:n])))
        return n

    def fsync(self, descriptor):
        os.fsync(descriptor)
        self.log.append(("fsync", self.names[descriptor]))

    def rename(self, a, b):
        os.replace(a, b)
        self.log.append(("rename", str(a), str(b)))

    def sync_folder(self, path):
        super().sync_folder(path)
        self.log.append(("sync", str(path)))


def power_losses(log):
    """Every file system state after a power loss at each point: data not fsynced may be cut anywhere or be absent, a
    rename that its folder did not sync may or may not have happened."""
    for end in range(len(log) + 1):
        for keep_renames in (True, False):
            for share in (0.0, 0.3, 0.7, 1.0):
                yield replay(log[:end], keep_renames, share)


def replay(log, keep_renames, share):
    files, durable, pending = {}, {}, []
    for event in log:
        kind, name = event[0], event[1]
        if kind == "create":
            files[name], durable[name] = b"", b""
        elif kind == "write":
            files[name] += event[2]
        elif kind == "fsync":
            durable[name] = files[name]
        elif kind == "rename":
            pending.append((name, event[2]))
        elif kind == "sync":
            for a, b in pending:
                _move(files, durable, a, b)
            pending = []
    if keep_renames:
        for a, b in pending:
            _move(files, durable, a, b)
    out = {}
    for name, data in files.items():
        kept = len(durable[name]) + int(share * (len(data) - len(durable[name])))
        out[name] = data[:kept]
    return out


def _move(files, durable, a, b):
    for table in (files, durable):
        for name in [n for n in table if n == a or n.startswith(a + "/")]:
            table[b + name[len(a) :]] = table.pop(name)


def test_no_power_loss_leaves_a_torn_file_or_loses_a_committed_one(tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(fsio, "system", recorder)
    target, states, committed = tmp_path / "state.json", 0, []
    for version in range(16):
        fsio.write_bytes(target, json.dumps({"version": version, "pad": "x" * 50}).encode())
        committed.append(len(recorder.log))
    for end in range(len(recorder.log) + 1):
        acknowledged = sum(mark <= end for mark in committed)
        for keep_renames in (True, False):
            for share in range(16):
                states += 1
                state = replay(recorder.log[:end], keep_renames, share / 15)
                found = json.loads(state[str(target)])["version"] + 1 if str(target) in state else 0
                assert found >= acknowledged
    assert states > 2000


def test_no_power_loss_leaves_a_checkpoint_whose_manifest_does_not_hold(tmp_path, monkeypatch):
    import torch

    recorder, folder, states = Recorder(), tmp_path / "checkpoints", 0
    monkeypatch.setattr(fsio, "system", recorder)
    for step in range(1, 4):
        checkpoint.save(folder, step, {"w": torch.arange(step)}, {"step": step}, keep=10)
    for state in power_losses(recorder.log):
        states += 1
        for name in state:
            if name.endswith("MANIFEST.json") and ".tmp." not in name:
                manifest = json.loads(state[name])
                for part, stated in manifest["files"].items():
                    data = state[name.replace("MANIFEST.json", part)]
                    assert len(data) == stated["bytes"]
    assert states > 200


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["create", "write", "fsync", "rename", "sync_folder"])
def test_a_failed_operation_is_one_line_and_the_old_file_stands(tmp_path, monkeypatch, operation, number):
    target = tmp_path / "a.json"
    fsio.write_bytes(target, b"old")
    broken = fsio.OS()

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(broken, operation, fail, raising=False)
    monkeypatch.setattr(fsio, "system", broken)
    with pytest.raises(DiskError) as caught:
        fsio.write_bytes(target, b"new")
    assert "\n" not in str(caught.value) and "intact" in str(caught.value)
    assert target.read_bytes() == (b"new" if operation == "sync_folder" else b"old")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_named_with_what_is_free(tmp_path, monkeypatch):
    broken = fsio.OS()

    def fail(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(broken, "write", fail, raising=False)
    monkeypatch.setattr(fsio, "system", broken)
    with pytest.raises(DiskError, match="disk full: writing .* MB free; what was committed before is intact"):
        fsio.write_bytes(tmp_path / "x", b"data")


def test_short_writes_are_continued(tmp_path, monkeypatch):
    slow = fsio.OS()
    monkeypatch.setattr(slow, "write", lambda d, data: os.write(d, data[:3]), raising=False)
    monkeypatch.setattr(fsio, "system", slow)
    fsio.write_bytes(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_a_torn_last_line_is_cut_and_whole_ones_stay(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    assert fsio.repair_jsonl(path) == 4
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    assert fsio.repair_jsonl(path) == 0


def test_what_dead_writers_left_is_swept_and_the_living_are_spared(tmp_path):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / f"a.json.tmp.{child}").write_text("torn")
    (tmp_path / f"step-1.trash.{child}").mkdir()
    (tmp_path / f"b.json.tmp.{os.getppid()}").write_text("alive")
    (tmp_path / "notes.tmp.txt").write_text("mine")
    fsio.sweep_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"b.json.tmp.{os.getppid()}", "notes.tmp.txt"]
