"""The offsets of tar members are those of tarfile, in every tar format."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmapkd.data.readers.tar.index import CutOff, Entry, entries

NAMES = st.text(st.sampled_from("ab/ü.é "), min_size=1, max_size=180).filter(lambda name: name == name.strip("/"))


def read(path: Path) -> list[Entry]:
    with path.open("rb") as file:
        return list(entries(file.fileno(), path.stat().st_size))


def written(path: Path, kind: int, members: list[tuple[str, int]], time: float) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, size in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = size, time  # a time with decimals makes a pax header, as in img2dataset's shards
            tar.addfile(info, io.BytesIO(os.urandom(size)))
    return path


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    members=st.lists(st.tuples(NAMES, st.integers(0, 1500)), max_size=5),
    time=st.sampled_from([0, 1.5]),
)
def test_names_places_and_sizes_are_those_of_tarfile(
    tmp_path_factory: pytest.TempPathFactory, kind: int, members: list[tuple[str, int]], time: float
) -> None:
    path = written(tmp_path_factory.getbasetemp() / "x.tar", kind, members, time)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    assert [tuple(entry) for entry in read(path)] == expected


def test_a_long_ustar_name_is_put_together(tmp_path: Path) -> None:
    name = "/".join(["f" * 60] * 3)
    assert read(written(tmp_path / "x.tar", tarfile.USTAR_FORMAT, [(name, 3)], 0))[0].name == name


def test_a_cut_at_any_byte_keeps_the_members_before_it(tmp_path: Path) -> None:
    path = written(tmp_path / "x.tar", tarfile.PAX_FORMAT, [("a", 700), ("b", 100), ("c", 0)], 1.5)
    whole, data = read(path), path.read_bytes()
    end = whole[-1].offset
    for cut in range(0, end, 37):
        path.write_bytes(data[:cut])
        found = []
        with pytest.raises(CutOff), path.open("rb") as file:
            for entry in entries(file.fileno(), cut):
                found.append(entry)
        assert found == [entry for entry in whole if entry.offset + entry.size <= cut][: len(found)]
        assert len(found) == sum(entry.offset + entry.size <= cut for entry in whole)
