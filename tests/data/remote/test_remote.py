"""Remote shards are read as if they lay here; a server that lies, fails, falls silent or vanishes is one line."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.images import decode
from cmapkd.data.inspect.look import look
from cmapkd.data.loader import InputSpec, Loader
from cmapkd.data.readers import open_samples
from cmapkd.data.remote import copies as copying
from cmapkd.data.remote import download as downloading
from cmapkd.data.remote import urls
from cmapkd.data.remote.ahead import Ahead
from cmapkd.data.remote.copies import Copies
from cmapkd.data.remote.reader import read_checksums
from cmapkd.data.sequence import order_of
from pictures import config
from remote_server import Served, serving, tar

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
pytest.importorskip("aiohttp", reason="aiohttp is not installed")


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server of five shards of four pictures."""
    monkeypatch.setattr(downloading, "PAUSES", (0.01, 0.01))
    with serving() as served:
        for k in range(5):
            served.files[f"/{k}.tar"] = tar(4 * k, 4)
        yield served


def asked(web: Served, folder: Path, name: str = "{0..2}.tar", **keys: object) -> DataConfig:
    return config(f"{web.url}/{name}", copies=str(folder / "copies"), **keys)


def held(folder: Path) -> list[str]:
    return sorted(path.name[13:] for path in (folder / "copies").glob("*.tar"))


def test_remote_shards_give_the_samples_of_the_same_shards_on_disk(web: Served, tmp_path: Path) -> None:
    for name, data in web.files.items():
        (tmp_path / name[1:]).write_bytes(data)
    data = asked(web, tmp_path)
    there, here = open_samples(data.train, data), open_samples(str(tmp_path / "{0..2}.tar"), config("x"))
    assert (there.ids, there.captions, there.fingerprint()) == (here.ids, here.captions, here.fingerprint())
    for mine, theirs in zip(there.paths, here.paths, strict=True):
        np.testing.assert_array_equal(np.asarray(decode(mine)), np.asarray(decode(theirs)))
    assert held(tmp_path) == ["0.tar", "1.tar", "2.tar"] and set(web.gets.values()) == {1}


def test_shards_that_were_copied_are_not_asked_for_again(web: Served, tmp_path: Path) -> None:
    data = asked(web, tmp_path)
    first = open_samples(data.train, data)
    web.files.clear()  # the server has nothing any more
    again = open_samples(data.train, data)
    assert again.fingerprint() == first.fingerprint() and decode(again.paths[7]).size == (16, 12)


def test_copies_stay_within_their_limit_and_the_least_recently_used_goes_first(web: Served, tmp_path: Path) -> None:
    size = len(web.files["/0.tar"])
    data = asked(web, tmp_path, "{0..4}.tar", copies_gb=3.5 * size / 1e9, order="sequential", window=3)
    samples = open_samples(data.train, data)
    assert len(samples) == 20 and len(held(tmp_path)) == 3
    for path in (tmp_path / "copies").glob("*.tar"):
        path.unlink()
    for turn, shard in enumerate((0, 1, 2, 0, 3)):  # 1 is used least recently when 3 comes
        place = samples.paths[4 * shard]
        decode(place)
        os.utime(place.path, ns=(turn, turn))  # type: ignore[union-attr]
    assert held(tmp_path) == ["0.tar", "2.tar", "3.tar"]
    before = web.gets.copy()
    decode(samples.paths[9])
    assert web.gets == before
    decode(samples.paths[5])
    assert web.gets["/1.tar"] == before["/1.tar"] + 1


def test_training_in_sequential_order_fetches_each_shard_once_an_epoch(web: Served, tmp_path: Path) -> None:
    size = len(web.files["/0.tar"])
    data = asked(web, tmp_path, "{0..4}.tar", copies_gb=4.5 * size / 1e9, order="sequential", window=4, ram_mb=0)
    samples = open_samples(data.train, data)

    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(texts), 2, dtype=torch.long), torch.zeros(len(texts), 2, dtype=torch.long)

    it = Loader(samples, data, InputSpec(8, tokenize), None, 2, 0)
    web.gets.clear()
    seen = torch.cat([batch.samples for _, batch in it.iterate(0, 10)])
    assert sorted(seen.tolist()) == list(range(20)) and max(web.gets.values()) == 1
    assert len(held(tmp_path)) <= 4
    local = Loader(samples, data, InputSpec(8, tokenize), None, 2, 0)
    assert torch.equal(local.batch(3).student.images, it.batch(3).student.images)


def test_the_shards_of_the_next_window_are_fetched_while_the_current_one_is_trained_on(
    web: Served, tmp_path: Path
) -> None:
    size = len(web.files["/0.tar"])
    data = asked(web, tmp_path, "{0..4}.tar", copies_gb=4.5 * size / 1e9, order="sequential", window=8)
    samples = open_samples(data.train, replace(data, window=4))
    for path in (tmp_path / "copies").glob("*.tar"):
        path.unlink()
    web.gets.clear()
    order = order_of(samples, data, np.arange(20))
    ahead = Ahead(samples, np.arange(20), order, 0)
    with ahead.running():
        ahead.at(0, 0)
        ahead.at(2, 0)  # the same window
        for future in ahead._coming:
            future.result()
    needed = {f"/{int(k) // 4}.tar" for k in order(np.arange(8, 16), 0, 0)}
    assert set(web.gets) == needed and len(held(tmp_path)) == len(needed) == 2
    ahead = Ahead(samples, np.arange(20), order, 0)
    with ahead.running():
        ahead.at(16, 0)  # the last window: the next epoch comes
        for future in ahead._coming:
            future.result()
    assert {f"/{int(k) // 4}.tar" for k in order(np.arange(0, 8), 0, 1)} <= set(web.gets)
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


def test_shards_that_do_not_fit_are_refused_in_random_order_before_any_is_fetched(web: Served, tmp_path: Path) -> None:
    data = asked(web, tmp_path, copies_gb=1e-6)
    with pytest.raises(UsageError, match=r"raise data.copies_gb, or set data.order: sequential"):
        open_samples(data.train, data)
    assert not web.gets
    size = len(web.files["/0.tar"])
    data = asked(web, tmp_path, copies_gb=2.5 * size / 1e9, order="sequential", window=4)
    with pytest.raises(UsageError, match=r"two windows of 4 samples.*raise it, or lower data.window"):
        open_samples(data.train, data)
    data = asked(web, tmp_path, "4.tar", copies_gb=1e-6, order="sequential")
    with pytest.raises(UsageError, match=r"4\.tar: 0\.00 GB, more than data\.copies_gb"):
        open_samples(data.train, data)


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        (lambda web: web.files.pop("/1.tar"), r"/1\.tar: no such file on the server; check the address"),
        (lambda web: web.announced.update({"/1.tar": 100}), r"/1\.tar: sends more than the 100 bytes that it announced"),
        (lambda web: web.announced.update({"/1.tar": 10**6}), r"/1\.tar: ended after \d+ of the 1000000 bytes that it announced"),
        (lambda web: web.body.update({"/1.tar": web.files["/1.tar"][:700]}), r"/1\.tar: .+; check the address"),
        (lambda web: web.fails.update({"/1.tar": 9}), r"/1\.tar: .*500.*; check the address"),
    ],
)  # fmt: skip
def test_a_server_that_lies_or_fails_is_one_line_and_leaves_nothing(web: Served, tmp_path: Path, trouble, line) -> None:
    trouble(web)
    data = asked(web, tmp_path)
    with pytest.raises(DataError, match=line) as caught:
        open_samples(data.train, data)
    assert "\n" not in str(caught.value) and "1.tar" not in held(tmp_path)
    assert not list((tmp_path / "copies").glob("*.tmp.*")) if (tmp_path / "copies").is_dir() else True


def test_a_silent_server_is_given_up_in_time(web: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "READ", 0.1)
    web.silent.add("/0.tar")
    data = asked(web, tmp_path, "0.tar")
    with pytest.raises(DataError, match=r"0\.tar: the server does not answer in time"):
        open_samples(data.train, data)
    assert web.gets["/0.tar"] == 3


def test_a_server_that_fails_once_is_asked_again(
    web: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web.fails["/0.tar"] = 2
    data = asked(web, tmp_path, "0.tar")
    assert len(open_samples(data.train, data)) == 4
    assert capsys.readouterr().err.count("trying again") == 2


def test_a_shard_that_vanishes_during_training_is_one_line_and_no_unreadable_image(web: Served, tmp_path: Path) -> None:
    data = asked(web, tmp_path, "0.tar")
    samples = open_samples(data.train, data)
    next((tmp_path / "copies").glob("*.tar")).unlink()
    web.files.clear()
    with pytest.raises(DataError, match=r"0\.tar: no such file on the server"):
        decode(samples.paths[0])


def test_checksums_are_checked_where_they_are_given(web: Served, tmp_path: Path) -> None:
    sums = {name[1:]: hashlib.sha256(data).hexdigest() for name, data in web.files.items()}
    (tmp_path / "SUMS").write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))
    data = asked(web, tmp_path, checksums=str(tmp_path / "SUMS"))
    assert len(open_samples(data.train, data)) == 12
    (tmp_path / "SUMS").write_text(
        "".join(f"{value} *{name}\n" for name, value in zip(sums, reversed(sums.values()), strict=True))
    )
    data = asked(web, tmp_path / "other", "0.tar", checksums=str(tmp_path / "SUMS"))
    with pytest.raises(DataError, match=r"0\.tar: has SHA-256 .*…, not the .*… of data.checksums"):
        open_samples(data.train, data)
    (tmp_path / "SUMS").write_text("junk\n")
    with pytest.raises(DataError, match="line 1 is no checksum"):
        read_checksums(tmp_path / "SUMS")


def test_several_threads_fetch_a_shard_once(web: Served, tmp_path: Path) -> None:
    copies, size = Copies(tmp_path, 10**9), len(web.files["/0.tar"])
    threads = [threading.Thread(target=copies.fetch, args=(f"{web.url}/0.tar", size)) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert web.gets["/0.tar"] == 1 and copies.place(f"{web.url}/0.tar").stat().st_size == size


def test_what_others_are_fetching_counts_in_the_limit(tmp_path: Path) -> None:
    copies = Copies(tmp_path, 100)
    with copying._locked(tmp_path / "x.tar.lock") as note:
        note("70")
        assert copies._coming() == 70
    assert copies._coming() == 0


def test_any_file_system_of_fsspec_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "SCHEMES", (*urls.SCHEMES, "memory"))
    fsspec.filesystem("memory").pipe_file("/shelf/7.tar", tar(0, 3))
    data = config("memory://shelf/7.tar", copies=str(tmp_path / "copies"))
    samples = open_samples(data.train, data)
    assert samples.ids == ("7/000", "7/001", "7/002") and decode(samples.paths[2]).size == (16, 12)


@pytest.mark.parametrize("location", ["file:///etc/x.tar", "pipe://cat", "ftp://host/x.tar", "https::file:///x.tar", "simplecache::http://h/x.tar", "local://x", "https://h/x::file:///y"])  # fmt: skip
def test_other_schemes_are_refused(location: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, DataError)) as caught:
        open_samples(location, config(location, copies=str(tmp_path)))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UsageError, match=r"pip install 'cmapkd\[remote\]'"):
        open_samples("https://127.0.0.1:9/x.tar", config("x", copies=str(tmp_path / "copies")))


def test_a_split_of_remote_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hold one split"):
        open_samples("https://127.0.0.1:9/x.tar", config("x"), "val")


def test_inspecting_a_url_says_that_only_local_data_is_inspected() -> None:
    with pytest.raises(UsageError, match="download one shard and inspect that"):
        look("https://127.0.0.1:9/x.tar")
