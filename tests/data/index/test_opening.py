"""A large data set is read once, into an index; whatever is wrong with an index is one line, and it is built anew."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, DiskError
from cmapkd.data import readers
from cmapkd.data.columns.file_array import FileArray
from cmapkd.data.index import files, opening, stamps
from cmapkd.data.loader import CHECKED, InputSpec, Loader
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from data.written import shard
from pictures import coco, picture

TABLE = "filepath,title\na.png,one\nb.png,two\na.png,one more\nc.png,two\ngone.png,lost\n"


class Read:
    """Counts how often each format is really read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wait: float = 0.0) -> None:
        self.times = 0

        def counted(read):
            def reader(*given):
                self.times += 1
                time.sleep(wait)
                return read(*given)

            return reader

        monkeypatch.setattr(readers, "READERS", {kind: counted(read) for kind, read in readers.READERS.items()})


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(opening, "LARGE", 0)
    monkeypatch.setattr(opening, "LARGE_PACKED", 0)
    monkeypatch.setattr("cmapkd.data.columns.file_array.SMALL", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in "abc":
        picture(tmp_path / "data" / "images" / f"{name}.png")
    (tmp_path / "data" / "t.csv").write_text(TABLE)
    return tmp_path / "data" / "t.csv"


def opened(path: Path, **keys) -> Samples:
    return open_samples(str(path), DataConfig(train=str(path), **keys))


def index_of(table: Path) -> Path:
    (found,) = (path for path in (table.parent / opening.BESIDE).iterdir() if path.is_dir())
    return found


def rewrite(manifest: Path, **changes) -> None:
    body = json.loads(manifest.read_text())["index"] | changes
    manifest.write_text(json.dumps({"index": body, "sha256": files._digest(body)}))


def test_the_second_start_reads_the_index_and_finds_the_same(table, monkeypatch, capsys):
    monkeypatch.setattr(opening, "LARGE", 10**9)
    plain = opened(table)
    assert not (table.parent / opening.BESIDE).exists(), "small data leaves nothing beside it"
    monkeypatch.setattr(opening, "LARGE", 0)
    read = Read(monkeypatch)
    first, second = opened(table), opened(table)
    assert read.times == 1 and isinstance(second.ids.source.blob, FileArray)
    assert plain == first == second and second.captions == (("one", "one more"), ("two",), ("two",))
    assert plain.fingerprint() == second.fingerprint() == plain.subset(np.arange(3)).fingerprint()
    assert (second.known.shared, second.known.distinct) == (2, 3) and second.notes == plain.notes
    assert second.lengths[:].tolist() == [path.stat().st_size for path in plain.paths]
    assert "its index is built once" in capsys.readouterr().err


def test_no_image_is_looked_at_in_a_start_from_an_index(table, monkeypatch):
    table.write_text(TABLE.replace("gone.png,lost\n", ""))
    opened(table)
    for name in "abc":
        (table.parent / "images" / f"{name}.png").rename(table.parent / f"{name}.elsewhere")
    assert len(opened(table)) == 3 and opened(table).fingerprint()


def test_an_index_of_older_data_is_built_anew_and_said_so(table, monkeypatch, capsys):
    opened(table)
    table.write_text(TABLE + "b.png,a new one\n")
    read = Read(monkeypatch)
    assert opened(table).captions[1] == ("two", "a new one") and opened(table).n_captions == 5 and read.times == 1
    assert capsys.readouterr().err.count("index of older data: built anew") == 1


def test_an_image_that_was_missing_and_came_is_seen(table, monkeypatch):
    assert len(opened(table)) == 3
    picture(table.parent / "images" / "gone.png")
    os.utime(table.parent / "images", ns=(10**18, 10**18))  # a clock may be coarser than a test is long
    os.utime(table.parent, ns=(10**18, 10**18))
    assert len(opened(table)) == 4


@pytest.mark.parametrize(
    "what", ["manifest cut", "manifest changed", "array cut", "array gone", "no manifest", "version"]
)
def test_a_torn_index_is_built_anew_and_said_so(table, monkeypatch, capsys, what):
    wanted = tuple(opened(table).captions)
    folder = index_of(table)
    manifest, array = folder / files.MANIFEST, folder / "captions.ends.npy"
    match what:
        case "manifest cut":
            manifest.write_bytes(manifest.read_bytes()[:-20])
        case "manifest changed":
            manifest.write_text(manifest.read_text().replace('"t.csv"', '"u.csv"'))
        case "array cut":
            array.write_bytes(array.read_bytes()[:-1])
        case "array gone":
            array.unlink()
        case "no manifest":
            manifest.unlink()
        case "version":
            rewrite(manifest, version=0)
    read = Read(monkeypatch)
    assert opened(table).captions == wanted == opened(table).captions and read.times == 1
    assert capsys.readouterr().err.count(files.TORN) == 1


def test_other_keys_have_an_index_of_their_own(table, monkeypatch):
    read = Read(monkeypatch)
    table.write_text(TABLE.replace("title", "title,other").replace("\na.png,", "\na.png,x,"))
    assert opened(table).captions[0] == ("x", "x") and opened(table, text_key="other").captions[0] == (
        "one",
        "one more",
    )
    opened(table), opened(table, text_key="other")
    assert read.times == 2


def test_beside_data_that_cannot_be_written_to_the_index_goes_to_the_cache_folder(table, tmp_path, monkeypatch, capsys):
    (table.parent / opening.BESIDE).write_text("no folder can be made here")
    read = Read(monkeypatch)
    assert opened(table) == opened(table) and read.times == 1
    assert list((tmp_path / "cache" / "cmapkd" / "index").glob("t.csv-*/index.json"))
    assert capsys.readouterr().err.count(f"no index in {table.parent / opening.BESIDE}") == 1


def test_without_any_place_for_an_index_the_data_is_read_into_memory(table, tmp_path, monkeypatch, capsys):
    (table.parent / opening.BESIDE).write_text("")
    (tmp_path / "cache").write_text("")
    assert len(opened(table)) == 3 and capsys.readouterr().err.count("no index in") == 2


def test_a_full_disk_leaves_the_data_and_no_half_of_an_index(table, monkeypatch, capsys):
    def full(*_):
        raise DiskError("disk full")

    monkeypatch.setattr(files.fsio, "commit_dir", full)
    assert len(opened(table)) == 3 and "could not be written" in capsys.readouterr().err
    assert not [path for path in (table.parent / opening.BESIDE).iterdir() if path.is_dir()]


def test_of_two_that_start_at_once_one_builds_and_both_read(table, monkeypatch, capsys):
    read, found = Read(monkeypatch, wait=0.3), []
    starts = [threading.Thread(target=lambda: found.append(opened(table))) for _ in range(2)]
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join()
    assert read.times == 1 and len(found) == 2 and found[0] == found[1]
    assert all(isinstance(samples.ids.source.blob, FileArray) for samples in found)
    said = capsys.readouterr().err
    assert said.count("its index is built once") == said.count(f"waiting for process {os.getpid()} on ") == 1


def test_data_that_changes_while_it_is_used_is_told(table):
    samples = opened(table)
    samples = opened(table)
    stamps.require_unchanged(samples.sources)
    table.write_text(TABLE + "\n")
    with pytest.raises(DataError, match=r"t\.csv: changed since its index was read; .* start a new run"):
        stamps.require_unchanged(samples.sources)


def test_a_run_looks_for_changed_data_every_so_many_steps(table):
    opened(table)
    student = InputSpec(8, lambda texts: (torch.zeros(len(texts), 3).long(), torch.zeros(len(texts), 3).long()))
    loader = Loader(opened(table), DataConfig(train=str(table)), student, None, batch=2, seed=0)
    loader.batch(0)
    table.write_text(TABLE + "\n")
    loader.batch(1)
    with pytest.raises(DataError, match="changed since its index was read"):
        loader.batch(CHECKED)


def test_a_new_build_leaves_what_a_running_process_reads(table):
    before = opened(table)
    before = opened(table)
    table.write_text(TABLE.replace("one", "another"))
    assert opened(table).captions[0] == ("another", "another more") and before.captions[0] == ("one", "one more")


def test_shards_are_not_scanned_again_until_one_is_added(table, monkeypatch):
    folder = table.parent / "shards"
    folder.mkdir()
    shard(folder / "00000.tar", ["a", "b"])
    read = Read(monkeypatch)
    assert opened(folder) == opened(folder) and len(opened(folder)) == 2 and read.times == 1
    assert opened(folder).paths[1].read()
    shard(folder / "00001.tar", ["c"])
    assert opened(folder).ids == ("00000/a", "00000/b", "00001/c") and read.times == 2


def test_json_is_not_parsed_again_not_even_to_learn_its_format(table, monkeypatch):
    path = coco(table.parent / "coco", {"a.png": ["one", "two"], "b.png": ["three"]})
    first, loads = opened(path), json.loads
    monkeypatch.setattr(
        json, "loads", lambda text: pytest.fail("parsed") if "annotations" in str(text) else loads(text)
    )
    assert opened(path) == first and first.captions == (("one", "two"), ("three",))


def test_a_packed_table_is_read_line_by_line_as_well(table):
    packed = table.with_name("t.csv.gz")
    packed.write_bytes(gzip.compress(TABLE.encode()))
    assert opened(packed, format="csv").captions == opened(table).captions
    packed.write_bytes(gzip.compress(TABLE.encode())[:-9])
    with pytest.raises(DataError, match="incomplete gzip file"):
        opened(packed, format="csv")
