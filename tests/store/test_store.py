"""The feature store: what is read is what was written, or an error that names what is wrong."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError, IntegrityError, NonFiniteError, UsageError
from cmapkd.store import store as module
from cmapkd.store.shards import checksums
from cmapkd.store.store import Field, Store, StoreWriter, estimate_bytes
from tests.core.dying import POINTS, Unsynced, killed, points, primitives_of
from tests.core.test_fsio import every_failure

KEY = {"teacher weights": "abc", "data": "flickr", "views": "4"}
SCALE = np.array([0.01, 0.5, 2.0], dtype=np.float32)
ROWS, SHARD = 20, 8
FIELDS = {
    "half": Field((2, 3), "float16"),
    "level": Field((4, 3), "int8", SCALE),
    "mask": Field((5,), "uint8"),
    "id": Field((), "int64"),
}


def arrays(rows: range) -> dict[str, np.ndarray]:
    every = {
        "half": np.random.default_rng(1).standard_normal((ROWS, 2, 3)).astype(np.float16),
        "level": np.random.default_rng(2).standard_normal((ROWS, 4, 3)).astype(np.float32),
        "mask": np.random.default_rng(3).integers(0, 2, (ROWS, 5)).astype(np.uint8),
        "id": np.arange(ROWS, dtype=np.int64) * 10**12,
    }
    return {name: values[rows.start : rows.stop] for name, values in every.items()}


def write(path: Path, key=KEY, shards: int | None = None, fields=FIELDS) -> StoreWriter:
    """Write all (or the first few) missing shards; finished when all are there."""
    with StoreWriter(path, fields, ROWS, SHARD, key) as writer:
        for rows in writer.missing_shards()[:shards]:
            writer.write_shard(rows, {name: arrays(rows)[name] for name in fields})
        if not writer.missing_shards():
            writer.finish()
    return writer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "store"
    write(path)
    return path


@pytest.fixture
def path(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "store"))


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def read_all(path: Path) -> None:
    store = Store(path, KEY)
    for field in FIELDS:
        store.read(field, np.arange(ROWS))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8", "bool", "int32", "int64"])
def test_every_dtype_comes_back_in_any_order_and_as_often_as_asked_for(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, (11, 3, 2)).astype(dtype)
    writer = StoreWriter(tmp_path, {"x": Field((3, 2), dtype)}, 11, 4, {})
    for rows in writer.missing_shards():
        writer.write_shard(rows, {"x": values[rows.start : rows.stop]})
    writer.finish()
    order = np.array([10, 0, 3, 4, 3, 7])
    got = Store(tmp_path).read("x", order)
    assert got.dtype == values.dtype and np.array_equal(got, values[order]) and got.flags.writeable
    assert np.array_equal(Store(tmp_path).read_float("x", order), values[order].astype(np.float32))
    assert Store(tmp_path).read("x", order[:0]).shape == (0, 3, 2)


def test_int8_is_off_by_half_a_step_at_most_and_saturates_at_127_steps(made):
    wanted = arrays(range(ROWS))["level"]
    store = Store(made)
    got = store.read_float("level", np.arange(ROWS))
    inside = np.abs(wanted) <= 127 * SCALE
    assert inside.mean() > 0.6 and (~inside).any()
    assert (np.abs(got - wanted)[inside] <= (0.5 + 1e-4) * np.broadcast_to(SCALE, wanted.shape)[inside]).all()
    assert np.allclose(np.abs(got)[~inside], np.broadcast_to(127 * SCALE, wanted.shape)[~inside])
    assert np.array_equal(store.fields["level"].scale, SCALE)
    assert store.read("level", np.arange(2)).dtype == np.int8


def test_the_rounding_noise_of_a_unit_variance_channel_is_below_two_in_ten_thousand():
    values = np.random.default_rng(0).standard_normal((20000, 4, 8))
    field = Field((4, 8), "int8", np.full(8, 5 / 127, dtype=np.float32))
    noise = (field.decode(field.encode(values)) - values) ** 2
    assert noise.mean() / (values**2).mean() < 2e-4


def test_only_what_is_asked_for_is_read(made):
    store = Store(made, KEY)
    store.read("half", np.array([1, 2, 3]))
    store.read_float("level", np.array([1]))
    assert dict(store.bytes_read) == {"half": 36, "level": 12}
    assert {field for field, shards in store._mapped.items() if shards} == {"half", "level"}


def test_the_estimate_is_the_size_of_records_and_checksums(made):
    content = sum(len(data) for name, data in files(made).items() if name.endswith((".npy", ".xxh3")))
    headers = 128 * len(list(made.glob("*.npy")))
    assert content - headers == estimate_bytes(FIELDS, ROWS)


def test_a_flipped_bit_in_any_file_is_found_by_reading_and_by_the_full_check(path):
    rng = random.Random(0)
    per_file = max(1, POINTS // 10)
    for file in sorted(path.iterdir()):
        if not file.stat().st_size:
            continue
        sound = file.read_bytes()
        for bit in [0, 8 * len(sound) - 1, *(rng.randrange(8 * len(sound)) for _ in range(per_file))]:
            broken = bytearray(sound)
            broken[bit // 8] ^= 1 << bit % 8
            file.write_bytes(broken)
            with pytest.raises(IntegrityError, match="cmapkd cache"):
                read_all(path)
            with pytest.raises(IntegrityError):
                Store(path, KEY).verify_all()
        file.write_bytes(sound)
    Store(path, KEY).verify_all()


def test_a_flip_anywhere_in_the_manifest_is_found_on_opening(path):
    file = path / "manifest.json"
    sound = file.read_bytes()
    for k in range(0, len(sound), 9):
        file.write_bytes(sound[:k] + bytes([sound[k] ^ (1 << k % 8)]) + sound[k + 1 :])
        with pytest.raises(IntegrityError, match=r"manifest\.json is corrupt"):
            Store(path, KEY)


def test_a_shard_of_another_store_is_found_though_its_own_checksums_hold(path, tmp_path):
    with StoreWriter(tmp_path / "other", FIELDS, ROWS, SHARD, KEY | {"data": "coco"}) as writer:
        writer.write_shard(range(8), {name: values[::-1] for name, values in arrays(range(8)).items()})
    for suffix in (".npy", ".xxh3"):
        shutil.copy(tmp_path / "other" / f"half-00000{suffix}", path)
    with pytest.raises(IntegrityError, match=r"half-00000\.xxh3 differs from the manifest"):
        read_all(path)


def test_a_bad_record_is_named_with_its_field_row_and_file_and_the_others_can_be_read(path):
    file = path / "half-00001.npy"
    broken = bytearray(file.read_bytes())
    broken[-1] ^= 1
    file.write_bytes(broken)
    store = Store(path, KEY)
    store.read("half", np.arange(15))
    with pytest.raises(
        IntegrityError, match=r"half of row 15 in half-00001\.npy .*delete that file and run `cmapkd cache"
    ):
        store.read("half", np.array([3, 15]))
    Store(path, KEY, verify=False).read("half", np.array([15]))


@pytest.mark.parametrize("suffixes", [(".npy",), (".xxh3",), (".npy", ".xxh3")])
def test_exchanged_shards_are_found(path, suffixes):
    for suffix in suffixes:
        one, other = (path / f"half-{k:05d}{suffix}" for k in (0, 1))
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    with pytest.raises(IntegrityError, match="half-0000"):
        read_all(path)


def test_a_checksum_depends_on_field_row_and_content():
    data = np.arange(6, dtype=np.int64).reshape(3, 2)
    sums = [checksums("a", 0, data), checksums("b", 0, data), checksums("a", 1, data), checksums("a", 0, data + 1)]
    assert len({int(s[0]) for s in sums}) == 4
    assert len(set(checksums("a", 0, np.zeros((5, 2))).tolist())) == 5
    assert np.array_equal(checksums("a", 1, data[1:]), sums[0][1:])


@pytest.mark.parametrize("name", ["half-00001.npy", "mask-00000.xxh3"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer"])
def test_a_missing_or_resized_file_is_found(path, name, damage):
    file = path / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[:-1] if damage == "truncated" else content + b"\0")
    with pytest.raises(IntegrityError, match=f"{name}.*delete that file and run `cmapkd cache"):
        read_all(path)
    with pytest.raises(IntegrityError, match=name):
        Store(path).verify_all()


def test_a_shard_too_many_is_found_by_the_full_check(path):
    Store(path).verify_all()
    shutil.copy(path / "half-00000.npy", path / "half-00009.npy")
    with pytest.raises(IntegrityError, match=r"half-00009\.npy is not in the manifest"):
        Store(path).verify_all()


def test_a_row_that_was_never_stored_is_refused(made):
    for row in (-1, ROWS):
        with pytest.raises(IntegrityError, match="the data changed"):
            Store(made).read("half", np.array([0, row]))


@pytest.mark.parametrize("name", [*KEY, "new"])
def test_a_stale_key_is_refused_with_the_field_and_both_values(made, name):
    with pytest.raises(IntegrityError, match=f"'{name}' is .* there but 'other' in this run"):
        Store(made, KEY | {name: "other"})
    Store(made, dict(reversed(KEY.items())))


def test_all_differing_fields_are_named(made):
    with pytest.raises(IntegrityError, match=r"'data' is 'flickr' there but 'coco' .*'views' is '4' there but None"):
        Store(made, {"teacher weights": "abc", "data": "coco"})


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


def test_of_two_writers_the_second_is_refused_by_the_firsts_name(tmp_path):
    ready = tmp_path / "ready"
    pid = os.fork()
    if pid == 0:
        with StoreWriter(tmp_path / "store", FIELDS, ROWS, SHARD, KEY):
            ready.touch()
            signal.pause()
    try:
        while not ready.exists():
            time.sleep(0.001)
        with pytest.raises(IntegrityError, match=f"in use by process {pid} on "):
            write(tmp_path / "store")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    write(tmp_path / "store")
    read_all(tmp_path / "store")


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
