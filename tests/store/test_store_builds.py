"""Building a store, even when killed and resumed, ends byte-identical, or in an error that says why."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError, IntegrityError, NonFiniteError, UsageError
from cmapkd.store import store as module
from cmapkd.store.store import Field, Store, StoreWriter, estimate_bytes
from tests.core.dying import Unsynced, killed, points, primitives_of
from tests.core.failing import every_failure
from tests.store.records import FIELDS, KEY, ROWS, SCALE, SHARD, arrays, files, read_all, write


def test_a_store_that_is_missing_or_unfinished_does_not_open(tmp_path):
    with pytest.raises(UsageError, match="does not exist; run `cmapkd cache --config"):
        Store(tmp_path / "nowhere")
    write(tmp_path, shards=2)
    with pytest.raises(UsageError, match="is unfinished; run `cmapkd cache --config"):
        Store(tmp_path)


def test_a_resumed_build_asks_for_the_missing_shards_only_and_ends_byte_identical(made, tmp_path):
    path = tmp_path / "store"
    first = write(path, shards=1)
    assert first.missing_shards() == [range(8, 16), range(16, 20)]
    with pytest.raises(IntegrityError, match="rows 8-16 are missing"):
        first.finish()
    (path / "mask-00000.xxh3").write_bytes(b"torn")
    assert write(path, shards=0).missing_shards()[0] == range(8)
    write(path)
    assert files(path) == files(made)


def test_a_build_is_not_resumed_under_another_key_or_layout(tmp_path):
    write(tmp_path, shards=1)
    with pytest.raises(IntegrityError, match="'data' is 'flickr' there but 'coco'"):
        write(tmp_path, KEY | {"data": "coco"})
    with pytest.raises(IntegrityError, match="'shard_rows' is 8 there but 4"):
        StoreWriter(tmp_path, FIELDS, ROWS, 4, KEY)
    with pytest.raises(IntegrityError, match="'fields' is"):
        StoreWriter(tmp_path, FIELDS | {"level": Field((4, 3), "int8", SCALE * 2)}, ROWS, SHARD, KEY)


def test_a_finished_store_is_not_written_over_under_another_key(path):
    before = files(path)
    with pytest.raises(IntegrityError, match="'data' is 'flickr' there but 'coco'"):
        write(path, KEY | {"data": "coco"})
    assert files(path) == before


def test_shards_of_which_nothing_says_what_they_are_do_not_count(path):
    (path / "manifest.json").unlink()
    writer = StoreWriter(path, FIELDS, ROWS, SHARD, KEY)
    assert len(writer.missing_shards()) == 3
    writer.close()


def test_a_damaged_finished_store_is_mended_by_writing_the_bad_shard_only(made, path):
    file = path / "level-00002.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    writer = StoreWriter(path, FIELDS, ROWS, SHARD, KEY)
    assert writer.missing_shards() == [range(16, 20)]
    with pytest.raises(UsageError, match="unfinished"):
        Store(path, KEY)
    writer.close()
    write(path)
    assert files(path) == files(made)


def test_a_disk_too_small_is_refused_with_both_figures_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module.fsio, "free_bytes", lambda path: estimate_bytes(FIELDS, ROWS) - 1)
    with pytest.raises(DiskError, match=r"needs 0\.0 MB and 0\.0 MB are free; use a smaller cache\.grid"):
        write(tmp_path)
    assert not list(tmp_path.glob("*.npy")) and not list(tmp_path.glob("*.json"))
    monkeypatch.undo()
    write(tmp_path)  # the lease was given back


@pytest.mark.parametrize("value", [np.nan, np.inf, 70000.0])
def test_a_value_that_the_store_cannot_hold_is_refused_with_its_field(tmp_path, value):
    writer = StoreWriter(tmp_path, FIELDS, ROWS, SHARD, KEY)
    for field in ("half", "level"):
        data = {name: values.astype(np.float64) for name, values in arrays(range(8)).items()}
        data[field][3, 1, 2] = value
        if field == "level" and value == 70000.0:
            continue  # int8 saturates
        with pytest.raises(NonFiniteError, match=f"field {field} of rows from 0: record 3"):
            writer.write_shard(range(8), data)
    writer.close()


def test_wrong_shapes_rows_and_fields_are_refused(tmp_path):
    writer = StoreWriter(tmp_path, FIELDS, ROWS, SHARD, KEY)
    good = arrays(range(8))
    for rows, data in [(range(4, 12), good), (range(8), good | {"mask": good["half"]}), (range(8), {}),
                       (range(8), good | {"mask": good["mask"] + 0.5})]:  # fmt: skip
        with pytest.raises(ValueError):
            writer.write_shard(rows, data)
    writer.close()
    for shape, dtype, scale in [((3,), "float64", None), ((3,), "float16", SCALE), ((4,), "int8", SCALE)]:
        with pytest.raises(ValueError):
            Field(shape, dtype, scale)
    with pytest.raises(ValueError):
        StoreWriter(tmp_path, {"../x": FIELDS["id"]}, ROWS, SHARD, KEY)


def test_kill_9_in_a_build_loses_at_most_the_shard_in_work_and_the_end_is_byte_identical(made, tmp_path, monkeypatch):
    def build() -> None:
        with StoreWriter(path, FIELDS, ROWS, SHARD, KEY) as writer:
            for rows in writer.missing_shards():
                writer.write_shard(rows, arrays(rows))
                with log.open("ab", buffering=0) as file:
                    file.write(b"%d\n" % rows.start)
            writer.finish()

    path, log = tmp_path / "count", tmp_path / "log"
    total = primitives_of(build)
    monkeypatch.setattr(fsio, "system", Unsynced())
    for k, n in enumerate(points(total)):
        path = tmp_path / str(k)
        acknowledged = {int(line) for line in killed(build, n, log).split()}
        if not (path / "manifest.json").exists():
            with pytest.raises(UsageError):
                Store(path, KEY)
        writer = StoreWriter(path, FIELDS, ROWS, SHARD, KEY)
        assert not acknowledged & {rows.start for rows in writer.missing_shards()}
        writer.close()
        write(path)
        assert files(path) == files(made), n
        shutil.rmtree(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_any_failed_primitive_ends_in_a_disk_error_and_the_build_can_go_on(tmp_path, monkeypatch, number):
    path, fields = tmp_path / "store", {"mask": FIELDS["mask"]}
    write(tmp_path / "sound", fields=fields)
    for error in every_failure(monkeypatch, number, lambda: write(path, fields=fields)):
        assert error is None or "intact" in str(error)
        assert not (path / "manifest.json").exists() or Store(path, KEY).verify_all()
        write(path, fields=fields)
        assert files(path) == files(tmp_path / "sound")
        shutil.rmtree(path)


def test_readers_that_meet_a_writer_see_a_whole_store_or_none(tmp_path):
    path = tmp_path / "store"
    pid = os.fork()
    if pid == 0:
        for _ in range(6):
            write(path)
            (path / "level-00001.npy").unlink()
        os._exit(0)
    opened = 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        try:
            read_all(path)
            opened += 1
        except (UsageError, IntegrityError) as error:
            assert "unfinished" in str(error) or "not exist" in str(error) or "level-00001" in str(error)
    write(path)
    read_all(path)
