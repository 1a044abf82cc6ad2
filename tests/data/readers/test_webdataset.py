"""WebDataset: shards as img2dataset writes them, whole, cut off, or missing."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from cmapkd.core.errors import CmapkdError, DataError, UsageError
from cmapkd.data.images import decode
from cmapkd.data.readers import open_samples
from cmapkd.data.readers.tar.shards import braces
from data.written import cut, shard
from pictures import config, picture


def test_members_are_read_at_their_places(tmp_path: Path) -> None:
    path = shard(tmp_path / "00000.tar", ["000000000", "000000001"])
    found = open_samples(str(path), config(path))
    assert found.ids == ("00000/000000000", "00000/000000001")
    assert found.captions == (("caption 000000000",), ("caption 000000001",)) and not found.notes
    with tarfile.open(path) as tar:
        stream = tar.extractfile("000000001.jpg")
        assert stream is not None
        picture(tmp_path / "b.jpg").write_bytes(stream.read())
    np.testing.assert_array_equal(np.asarray(decode(found.paths[1])), np.asarray(decode(tmp_path / "b.jpg")))


@pytest.mark.parametrize("location", ["", "{00000..00001}.tar", "*.tar", "{00000,00001}.tar"])
def test_a_folder_and_its_patterns_mean_the_same_shards(tmp_path: Path, location: str) -> None:
    for k in range(2):
        shard(tmp_path / f"0000{k}.tar", [f"{k}a", f"{k}b"])
    found = open_samples(str(tmp_path / location), config("x"))
    assert found.ids == ("00000/0a", "00000/0b", "00001/1a", "00001/1b")
    assert open_samples(str(tmp_path), config("x")).fingerprint() == found.fingerprint()


def test_a_missing_text_falls_back_on_the_json_and_an_empty_one_is_counted(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", ["a", "b", "c"], {"a": None, "b": " \n"})
    found = open_samples(str(path), config(path))
    assert found.captions[0] == ("json a",) and found.ids == ("0/a", "0/b", "0/c") and found.captions[1] == ("json b",)
    with tarfile.open(tmp_path / "bare.tar", "w") as tar:
        tar.add(picture(tmp_path / "x.jpg"), "x.jpg")
        tar.add(picture(tmp_path / "y.jpg"), "y.jpg")
        (tmp_path / "y.txt").write_text("why")
        tar.add(tmp_path / "y.txt", "y.txt")
    bare = open_samples(str(tmp_path / "bare.tar"), config(path))
    assert bare.ids == ("bare/y",) and bare.notes == ("1 images without a caption dropped (first: 'bare/x')",)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7])
def test_a_shard_that_is_cut_off_is_named_and_counted_in_the_budget(tmp_path: Path, share: float) -> None:
    for k in range(3):
        shard(tmp_path / f"{k}.tar", [f"{k}{c}" for c in "abcdefgh"])
    cut(tmp_path / "1.tar", share)
    with pytest.raises(
        DataError, match=r"1 shards missing or cut off.*1\.tar \(.*the budget is 1.*bad_budget"
    ) as caught:
        open_samples(str(tmp_path), config("x"))
    assert "\n" not in str(caught.value) and caught.value.code == 3
    found = open_samples(str(tmp_path), config("x", bad_budget=0.9))
    assert 16 <= len(found) < 24 and f"at least {24 - len(found)} samples lost" in found.notes[0]
    assert all(decode(place).mode == "RGB" for place in found.paths)


def test_a_copy_that_stopped_between_two_members_is_seen(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", ["a", "b"], stats=False)
    with tarfile.open(path) as tar:
        end = tar.getmembers()[2].offset_data + 512
    path.write_bytes(path.read_bytes()[:end])
    found = open_samples(str(path), config("x"))
    assert found.ids == ("0/a",) and "1 shards missing or cut off, at least 1 samples lost: 0.tar" in found.notes[0]


def test_shards_of_a_pattern_that_are_not_there_count_by_one_at_least(tmp_path: Path) -> None:
    shard(tmp_path / "00000.tar", ["a", "b"])
    location = str(tmp_path / "{00000..00002}.tar")
    with pytest.raises(DataError, match=r"2 shards missing.*00001\.tar \(no such file\)"):
        open_samples(location, config("x"))
    assert len(open_samples(location, config("x", bad_budget=1.0))) == 2
    with pytest.raises(DataError, match="no such tar shard; the first would be .*9.tar"):
        open_samples(str(tmp_path / "{9..10}.tar"), config("x"))


def test_a_folder_a_split(tmp_path: Path) -> None:
    shard(tmp_path / "train" / "0.tar", ["a"]), shard(tmp_path / "val" / "0.tar", ["b", "c"])
    assert len(open_samples(str(tmp_path), config("x"), "val")) == 2
    for split in (None, "test"):
        with pytest.raises(UsageError, match="holds the folders train, val"):
            open_samples(str(tmp_path), config("x"), split)


def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz") as tar:
        tar.add(picture(tmp_path / "x.jpg"), "x.jpg")
    with pytest.raises(DataError, match="compressed.*gunzip"):
        open_samples(str(tmp_path / "0.tar.gz"), config("x"))


def test_whatever_bytes_stand_in_a_shard_end_in_one_line(tmp_path: Path) -> None:
    rng, whole = np.random.default_rng(0), shard(tmp_path / "w" / "0.tar", ["a", "b"]).read_bytes()
    path = tmp_path / "0.tar"
    for _ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(0, len(data), 30)] = rng.integers(0, 256, 30)
        path.write_bytes(data.tobytes())
        try:
            assert len(open_samples(str(path), config("x", bad_budget=1.0))) > 0
        except CmapkdError as error:
            assert "\n" not in str(error)


def test_braces_expand_as_a_shell_does() -> None:
    assert list(braces("a{08..11}")) == ["a08", "a09", "a10", "a11"]
    assert list(braces("{x,y}{2..1}")) == ["x2", "x1", "y2", "y1"] and list(braces("plain")) == ["plain"]
