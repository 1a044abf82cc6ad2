import os
import random
import signal
import time

import numpy as np
import pytest

from cmapkd.cache.store import Field, Store, StoreWriter, estimate_bytes
from cmapkd.core import fsio
from cmapkd.core.errors import DiskError, IntegrityError, UsageError

ROWS, SHARD = 50, 16
KEY = {"teacher": "a", "data": "b"}
FIELDS = {
    "P2": Field((4, 8), "int8", np.full(8, 5 / 127, dtype=np.float32)),
    "final": Field((6,), "float16"),
    "mask": Field((5,), "uint8"),
    "place": Field((2,), "int64"),
}


def arrays(rows: range) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows.start)
    return {
        "P2": rng.standard_normal((len(rows), 4, 8)),
        "final": rng.standard_normal((len(rows), 6)),
        "mask": rng.integers(0, 2, (len(rows), 5)),
        "place": rng.integers(0, 1 << 40, (len(rows), 2)),
    }


def build(path, key=KEY, stop_after=None):
    writer = StoreWriter(path, FIELDS, ROWS, SHARD, key)
    for number, rows in enumerate(writer.missing_shards()):
        if stop_after is not None and number >= stop_after:
            writer.close()
            return None
        writer.write_shard(rows, arrays(rows))
    writer.finish()
    return Store(path, key)


def contents(path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(path.iterdir()) if p.name != "writer.lock"}


def test_records_come_back_as_they_were_stored_in_any_order(tmp_path):
    store = build(tmp_path / "s")
    rows = np.array([49, 0, 17, 0, 31])
    for name in ("mask", "place"):
        whole = np.concatenate([arrays(range(a, min(a + SHARD, ROWS)))[name] for a in range(0, ROWS, SHARD)])
        np.testing.assert_array_equal(store.read(name, rows), whole[rows])


def test_int8_keeps_values_to_half_a_step_and_float16_to_its_precision(tmp_path):
    store = build(tmp_path / "s")
    rows = np.arange(SHARD)
    raw = arrays(range(SHARD))
    assert np.abs(store.read_float("P2", rows) - np.clip(raw["P2"], -5, 5)).max() <= 0.5 * 5 / 127 + 1e-6
    np.testing.assert_allclose(store.read_float("final", rows), raw["final"], rtol=1e-3, atol=1e-3)


def test_rounding_noise_of_a_unit_variance_channel_is_below_two_in_ten_thousand():
    x = np.random.default_rng(0).standard_normal((20000, 4, 8))
    field = FIELDS["P2"]
    error = (field.encode(x) * field.scale - x) ** 2
    assert error.mean() / (x**2).mean() < 2e-4


@pytest.mark.parametrize("position", ["first", "middle", "last"])
@pytest.mark.parametrize("ending", [".npy", ".xxh3"])
def test_a_flipped_bit_is_found_and_its_record_named(tmp_path, ending, position):
    build(tmp_path / "s")
    file = tmp_path / "s" / f"P2-00001{ending}"
    data = bytearray(file.read_bytes())
    start = len(data) - (SHARD * 32 if ending == ".npy" else 8 * SHARD)
    at = {"first": start, "middle": (start + len(data)) // 2, "last": len(data) - 1}[position]
    data[at] ^= 1 << random.Random(at).randrange(8)
    file.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="P2 of row .* in P2-00001.npy fails its checksum"):
        Store(tmp_path / "s").read("P2", np.arange(SHARD, 2 * SHARD))


def test_many_random_flips_are_all_found(tmp_path):
    build(tmp_path / "s")
    rng = random.Random(0)
    files = [p for p in (tmp_path / "s").iterdir() if p.suffix in (".npy", ".xxh3") or p.name == "manifest.json"]
    for _ in range(150):
        file = rng.choice(files)
        good = file.read_bytes()
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(data))
        with pytest.raises((IntegrityError, UsageError)):
            Store(tmp_path / "s", KEY).verify_all()
        file.write_bytes(good)
    Store(tmp_path / "s", KEY).verify_all()


def test_shards_that_were_exchanged_are_found(tmp_path):
    build(tmp_path / "s")
    for ending in ("npy", "xxh3"):
        a, b = (tmp_path / "s" / f"P2-0000{k}.{ending}" for k in (0, 1))
        x, y = a.read_bytes(), b.read_bytes()
        a.write_bytes(y)
        b.write_bytes(x)
    with pytest.raises(IntegrityError, match="fails its checksum"):
        Store(tmp_path / "s").read("P2", np.array([0]))


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_truncated_or_missing_shard_is_refused(tmp_path, damage):
    build(tmp_path / "s")
    file = tmp_path / "s" / "final-00002.npy"
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(IntegrityError, match="final-00002.npy is missing or truncated"):
        Store(tmp_path / "s").read("final", np.array([40]))


@pytest.mark.parametrize("field", list(KEY))
def test_a_stale_key_is_refused_naming_the_field(tmp_path, field):
    build(tmp_path / "s")
    with pytest.raises(IntegrityError, match=f"'{field}' is '{KEY[field]}' there but 'x' in this run"):
        Store(tmp_path / "s", {**KEY, field: "x"})


def test_an_unfinished_store_is_not_opened(tmp_path):
    build(tmp_path / "s", stop_after=1)
    with pytest.raises(UsageError, match="is unfinished; run `cmapkd cache`"):
        Store(tmp_path / "s")


def test_a_resumed_build_is_byte_identical_and_writes_only_what_is_missing(tmp_path):
    build(tmp_path / "whole")
    build(tmp_path / "cut", stop_after=2)
    torn = tmp_path / "cut" / "P2-00001.npy"
    torn.write_bytes(torn.read_bytes()[:-1])
    writer = StoreWriter(tmp_path / "cut", FIELDS, ROWS, SHARD, KEY)
    assert [rows.start for rows in writer.missing_shards()] == [16, 32, 48]
    writer.close()
    build(tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_build_is_not_continued_under_another_key(tmp_path):
    build(tmp_path / "s", stop_after=1)
    with pytest.raises(IntegrityError, match="'teacher' is 'a' there but 'z'"):
        StoreWriter(tmp_path / "s", FIELDS, ROWS, SHARD, {**KEY, "teacher": "z"})


def test_a_second_writer_is_told_who_holds_the_store(tmp_path):
    writer = StoreWriter(tmp_path / "s", FIELDS, ROWS, SHARD, KEY)
    with pytest.raises(IntegrityError, match=f"in use by process {os.getpid()}"):
        StoreWriter(tmp_path / "s", FIELDS, ROWS, SHARD, KEY)
    writer.close()


def test_a_store_that_the_disk_cannot_hold_is_refused_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(fsio, "free_bytes", lambda _: 10)
    with pytest.raises(DiskError, match="needs .* GB and 0.00 GB are free"):
        StoreWriter(tmp_path / "s", FIELDS, ROWS, SHARD, KEY)
    assert not list((tmp_path / "s").glob("*.npy"))


def test_the_estimate_is_what_the_records_take(tmp_path):
    build(tmp_path / "s")
    used = sum(p.stat().st_size for p in (tmp_path / "s").iterdir() if p.suffix in (".npy", ".xxh3"))
    headers = 128 * len(list((tmp_path / "s").glob("*.npy")))
    assert estimate_bytes(FIELDS, ROWS) == used - headers


def test_kill_minus_nine_while_building_leaves_a_build_that_ends_the_same(tmp_path):
    build(tmp_path / "whole")
    rng = random.Random(0)
    for point in range(int(os.environ.get("CMAPKD_FAULTS", "25"))):
        path = tmp_path / f"k{point}"
        child = os.fork()
        if child == 0:
            build(path)
            os._exit(0)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not (path / "manifest.json").is_file():
            build(path)
        assert contents(path) == contents(tmp_path / "whole")
