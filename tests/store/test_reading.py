"""Plain reads give the bytes that memory maps give, with a bounded number of open files; network disks are read plainly."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from cmapkd.core.errors import IntegrityError
from cmapkd.store import disks, opened
from cmapkd.store import store as module
from cmapkd.store.disks import network_type
from cmapkd.store.opened import most_open
from cmapkd.store.store import Field, Store, StoreWriter
from tests.store.records import FIELDS, KEY, ROWS


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_plain_reads_and_maps_give_the_same_bytes(made):
    rows = np.random.default_rng(0).integers(0, ROWS, 64)
    mapped, plain = Store(made, KEY, how="map"), Store(made, KEY, how="plain")
    assert (mapped.plain, plain.plain) == (False, True)
    for field in FIELDS:
        assert mapped.read(field, rows).tobytes() == plain.read(field, rows).tobytes()
    assert mapped.bytes_read == plain.bytes_read


@pytest.mark.parametrize("how", ["map", "plain"])
def test_a_flipped_bit_is_found_either_way(path, how):
    file = path / "half-00001.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"half of row 15 in half-00001\.npy fails its checksum"):
        Store(path, KEY, how=how).read("half", np.array([3, 15]))


@pytest.mark.parametrize("how", ["map", "plain"])
def test_no_more_shards_are_open_than_the_limit_and_all_can_be_read(tmp_path, monkeypatch, how):
    monkeypatch.setattr(opened, "MOST", {"plain": 8, "map": 16}[how] * opened.PART)
    values = np.arange(200, dtype=np.int64).reshape(100, 2)
    with StoreWriter(tmp_path, {"x": Field((2,), "int64")}, 100, 2, {}) as writer:
        for rows in writer.work():
            writer.write_shard(rows, {"x": values[rows.start : rows.stop]})
        writer.finish()
    store, before = Store(tmp_path, how=how), open_files()
    for rows in np.random.default_rng(0).integers(0, 100, (30, 20)):
        assert np.array_equal(store.read("x", rows), values[rows])
        assert len(store._opened.by_field["x"]) <= 8 and open_files() <= before + opened.MOST // opened.PART
    assert len(store._opened.by_field["x"]) == 8
    del store
    assert open_files() == before


def test_a_shard_that_vanishes_in_mid_epoch_is_one_line_that_names_it(path):
    store = Store(path, KEY, how="plain")
    store.read("half", np.array([0]))
    for name in ("half-00001.npy", "half-00002.xxh3"):
        (path / name).unlink()
        with pytest.raises(IntegrityError, match=rf"{name} is missing or unreadable \(No such file.*delete that file"):
            store.read("half", np.array([0, 8 if "1" in name else 16]))
    os.truncate(path / "half-00000.npy", 130)
    with pytest.raises(IntegrityError, match=r"half-00000\.npy is missing or unreadable \(ends too early\)"):
        store.read("half", np.array([7]))


def test_a_server_that_drops_an_open_file_is_the_same_line(path, monkeypatch):
    def stale(*_):
        raise OSError(116, "Stale file handle")

    store = Store(path, KEY, how="plain")
    store.read("half", np.array([0]))
    monkeypatch.setattr(os, "preadv", stale)
    with pytest.raises(IntegrityError, match=r"half-00000\.npy is missing or unreadable \(Stale file handle\)"):
        store.read("half", np.array([0]))


def test_network_disks_are_told_from_local_ones_by_the_innermost_mount(tmp_path, monkeypatch):
    table = tmp_path / "mounts"
    rows = [("/dev/a", "/", "ext4"), ("srv:/x", "/data", "nfs4"), ("/dev/b", "/data/fast", "xfs"),
            ("cl", "/a\\040b", "lustre"), ("s", "/s", "fuse.sshfs"), ("o", "/o", "fuse.fuse-overlayfs"), ("h", "/h", "9p"),
            ("//w", "/w", "cifs"), ("t", "/t", "tmpfs")]  # fmt: skip
    table.write_text("".join(f"{device} {point} {kind} rw 0 0\n" for device, point, kind in rows))
    monkeypatch.setattr(disks, "MOUNTS", table)
    found = {
        name: network_type(Path(name))
        for name in ("/data/c", "/data/fast/c", "/database", "/a b/c", "/s", "/o", "/h", "/w", "/t")
    }
    assert found == {"/data/c": "nfs4", "/data/fast/c": None, "/database": None, "/a b/c": "lustre", "/s": "fuse.sshfs",
                     "/o": None, "/h": "9p", "/w": "cifs", "/t": None}  # fmt: skip
    monkeypatch.setattr(disks, "MOUNTS", tmp_path / "none")
    assert network_type(Path("/data")) is None


def test_auto_reads_network_disks_plainly_and_maps_local_ones(made, monkeypatch):
    monkeypatch.setattr(module, "network_type", lambda path: "nfs4")
    assert Store(made, KEY).plain and not Store(made, KEY, how="map").plain
    monkeypatch.setattr(module, "network_type", lambda path: None)
    assert not Store(made, KEY).plain and Store(made, KEY, how="plain").plain


def test_the_limit_of_open_files_is_raised_to_what_the_system_allows():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        most = most_open(plain=True)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, opened.MOST)
        assert most == min(hard, opened.MOST) // opened.PART
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
