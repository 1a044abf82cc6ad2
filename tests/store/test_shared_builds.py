"""Several writers of one store end with the files that one writer makes, whichever of them die or fail."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

from cmapkd.core import claims, fsio
from cmapkd.core.errors import CmapkdError, IntegrityError, UsageError
from cmapkd.core.primitives import OS
from cmapkd.store.store import Field, Store, StoreWriter
from cmapkd.store.writer import rows_of_a_shard
from tests.core.dying import Dying, Unsynced, primitives_of
from tests.core.failing import Failing
from tests.store.records import FIELDS, KEY, ROWS, SHARD, arrays, files, read_all
from waiting import until


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(claims, "POLL", (0.001, 0.01))
    monkeypatch.setattr(fsio, "system", Unsynced())


def work(path: Path, log: Path | None = None, key=KEY, check=True) -> None:
    """All that a worker does; the rows that it writes are noted in the log."""
    with StoreWriter(path, FIELDS, ROWS, SHARD, key, check) as writer:
        for rows in writer.work():
            writer.write_shard(rows, arrays(rows))
            if log is not None:
                with log.open("ab", buffering=0) as file:
                    file.write(b"%d\n" % rows.start)
        writer.finish()


def started(path: Path, system: OS, *more) -> int:
    """A worker process with these system calls; its exit code is that of its error."""
    if (pid := os.fork()) == 0:
        fsio.system = system
        try:
            work(path, *more)
        except CmapkdError as error:
            os._exit(error.code)
        os._exit(0)
    return pid


def ended(pids: list[int]) -> list[int]:
    """Exit codes, or minus the signal, in order."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def test_three_workers_share_the_shards_and_one_of_them_seals(made, tmp_path):
    class Sealing(Unsynced):
        @staticmethod
        def rename(source, target):
            os.replace(source, target)
            if Path(target).name == "manifest.json":
                with seals.open("ab", buffering=0) as file:
                    file.write(b"x")

    path, log, seals = tmp_path / "store", tmp_path / "log", tmp_path / "seals"
    with StoreWriter(path, FIELDS, ROWS, SHARD, KEY):  # begun: a latecomer finds it sealed only by these three
        assert ended([started(path, Sealing(), log, KEY, False) for _ in range(3)]) == [0, 0, 0]
    assert sorted(log.read_bytes().split()) == [b"0", b"16", b"8"], "each shard was written once"
    assert seals.read_bytes() == b"x" and files(path) == files(made)


def test_a_killed_workers_shard_is_finished_by_the_others_and_the_end_is_byte_identical(made, tmp_path):
    path = tmp_path / "count"
    total = primitives_of(lambda: work(path))
    fsio.system = Unsynced()
    for n in range(0, total, max(1, total // 12)):
        path = tmp_path / str(n)
        codes = ended([started(path, Dying(n)), started(path, Unsynced())])
        assert codes[0] in (-signal.SIGKILL, 0) and codes[1] == 0, "0 where the other had done the work before"
        if (path / "build").exists():  # it died after the other had ended
            assert {f.name for f in path.iterdir()} == {"build", *files(made)}
            work(path, check=False)
        assert files(path) == files(made), n
        shutil.rmtree(path)


def test_a_disk_that_is_full_for_one_worker_is_its_exit_code_5_and_the_others_finish(made, tmp_path):
    found = set()
    for n in (8, 20, 40, 60):
        path = tmp_path / str(n)
        codes = ended([started(path, Failing(n, errno.ENOSPC)), started(path, Unsynced())])
        found.add(codes[0])
        assert codes[0] in (0, 5) and codes[1] == 0 and files(path) == files(made), n
    assert 5 in found


def test_a_worker_of_another_key_is_refused_while_the_first_is_at_work(tmp_path):
    path = tmp_path / "store"
    with StoreWriter(path, FIELDS, ROWS, SHARD, KEY) as writer:
        shards = writer.work()
        rows = next(shards)
        with pytest.raises(IntegrityError, match="'data' is 'flickr' there but 'coco'"):
            work(path, key=KEY | {"data": "coco"})
        writer.write_shard(rows, arrays(rows))
    work(path)
    read_all(path)


def test_a_worker_that_was_stopped_and_lost_its_shard_leaves_it_to_the_other(made, tmp_path, capsys):
    path = tmp_path / "store"
    with StoreWriter(path, FIELDS, ROWS, SHARD, KEY) as writer:
        shards = writer.work()
        rows = next(shards)
        (path / "build" / "shard 00000.2").write_text("other-host\nprocess 1 on other-host\n0\n")
        writer.write_shard(rows, arrays(rows))
        assert not list(path.glob("*.npy")) and "it is left to the other" in capsys.readouterr().err
        writer.close()
    (path / "build" / "shard 00000.2").unlink(missing_ok=True)
    work(path)
    assert files(path) == files(made)


def test_a_finished_store_is_checked_by_all_together_and_a_bad_shard_is_mended(made, path, tmp_path):
    file = path / "level-00001.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    log = tmp_path / "log"
    assert ended([started(path, Unsynced(), log), started(path, Unsynced(), log)]) == [0, 0]
    assert log.read_bytes() == b"8\n" and files(path) == files(made)


def test_a_sealed_store_of_an_unfinished_cache_is_taken_by_its_sizes_and_not_read_again(made, path, monkeypatch):
    monkeypatch.setattr("cmapkd.store.shard_files.map_shard", lambda *_: pytest.fail("a shard was read"))
    work(path, check=False)
    assert files(path) == files(made)
    monkeypatch.undo()
    (path / "half-00002.xxh3").unlink()
    work(path, check=False)
    assert files(path) == files(made)


def test_records_that_a_kill_while_sealing_left_are_swept(made, path):
    (path / "build").mkdir()
    for name in ("00000.json", "shard 00001.1", "00002.json.tmp.9"):
        (path / "build" / name).touch()
    work(path, check=False)
    assert files(path) == files(made)


def test_shards_hold_4096_rows_unless_rows_are_large_few_or_very_many_and_a_begun_store_keeps_its_own(tmp_path):
    row = {"x": Field((20_000,), "int8")}
    assert rows_of_a_shard(row, 10**6) == 4096
    assert rows_of_a_shard({"x": Field((2**20,), "int8")}, 10**5) == 256, "512 MiB of records"
    assert rows_of_a_shard(row, 4 * 8000) == 1024 and rows_of_a_shard(row, 100) == 256
    many = rows_of_a_shard(row, 200_000_000)
    assert many == 32768 and many * 20_008 <= 2**30
    work(tmp_path / "store")
    with StoreWriter(tmp_path / "store", FIELDS, ROWS, None, KEY) as writer:
        assert writer.shard_rows == SHARD


def test_readers_see_an_unfinished_store_until_the_last_shard(tmp_path):
    path, log = tmp_path / "store", tmp_path / "log"
    pid = started(path, Unsynced(), log)
    assert until(lambda: (path / "manifest.json").exists())
    assert ended([pid]) == [0]
    Store(path, KEY).verify_all()
    with StoreWriter(tmp_path / "new", FIELDS, ROWS, SHARD, KEY), pytest.raises(UsageError, match="is unfinished"):
        Store(tmp_path / "new")
