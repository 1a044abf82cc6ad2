"""Reading a store gives what was written, or an error that names the damage."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest

from cmapkd.core.errors import IntegrityError
from cmapkd.store.shards import checksums
from cmapkd.store.store import Field, Store, StoreWriter, estimate_bytes
from tests.core.dying import POINTS
from tests.store.records import FIELDS, KEY, ROWS, SCALE, SHARD, arrays, files, read_all


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
    assert {field for field, shards in store._opened.by_field.items() if shards} == {"half", "level"}


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
