"""Columns give back what was put in, whole, in slices and in picks, from memory and from files."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmapkd.data.columns import spool
from cmapkd.data.columns.column import Column, Numbers
from cmapkd.data.columns.file_array import FEW, FileArray, open_array
from cmapkd.data.columns.grouping import NamedCaptions
from cmapkd.data.columns.pictures import Pictures, containers_of, picture_column
from cmapkd.data.columns.texts import Captions, Texts, caption_column, caption_offsets, flat, text_column
from cmapkd.data.parquet import Cell
from cmapkd.data.remote.copies import Copies
from cmapkd.data.remote.member import RemoteMember
from cmapkd.data.stored import Member, Region

PICTURES = (
    Path("a.png"), Path("/x/ü/b c.jpg"), Path("deep/er/\udcff.png"), Member(Path("/s/0.tar"), "0.tar/k.jpg", 2**40, 7),
    Region(Path("/v/1.jpg"), (1.5, 2.0, 3.0, 4.0), (640, 480)), Region(Path("2.jpg"), (0.0, 0.0, 1.0, 1.0)),
    Cell(Path("t.parquet"), "image", 3, 99),
)  # fmt: skip
texts = st.lists(st.text(st.characters(codec=None), max_size=9), max_size=9)


@settings(max_examples=100, deadline=None)
@given(texts)
def test_texts_come_back_with_lone_surrogates_and_nuls(given_texts: list[str]) -> None:
    assert list(text_column(given_texts)) == given_texts


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.data())
def test_captions_of_a_pick_are_those_of_its_images(captions: list[list[str]], data: st.DataObject) -> None:
    column = caption_column(captions)
    picked = data.draw(st.lists(st.integers(0, len(captions) - 1), max_size=6))
    some = column.pick(np.array(picked, np.int64))
    wanted = [tuple(captions[k]) for k in picked]
    assert list(some) == wanted and list(flat(some)) == [text for own in wanted for text in own]
    assert caption_offsets(some).tolist() == [0, *np.cumsum([len(own) for own in wanted]).tolist()]
    assert list(column.pick(np.arange(len(captions)))[::-1]) == [tuple(own) for own in reversed(captions)]


def test_every_kind_of_image_reference_comes_back() -> None:
    column = picture_column(PICTURES)
    assert column == PICTURES and column[-1] == PICTURES[-1] and column[2:4] == PICTURES[2:4]
    assert not column.source.objects
    for path in ("a.png", "/a.png", "x//y/./z.png", "/x/../y.png"):
        assert picture_column([path])[0] == Path(path)


def test_remote_images_come_back_with_their_shard_told_once(tmp_path: Path) -> None:
    copies = Copies(tmp_path, 10**9, {})
    remote = tuple(
        RemoteMember(copies, f"https://h/{k % 2}.tar", 900 + k % 2, f"{k}.jpg", 512 * k, 7) for k in range(6)
    )
    column = picture_column([*remote, PICTURES[0], PICTURES[3]])
    assert column == (*remote, PICTURES[0], PICTURES[3]) and len(column.source.shards) == 2
    assert containers_of(column, np.arange(8)).tolist() == [0, 1, 0, 1, 0, 1, -1, 3]


def test_an_image_of_a_kind_that_no_file_can_hold_is_kept_as_it_is() -> None:
    class Made:
        name = "made"

        def length(self) -> int:
            return 3

        def read(self) -> bytes:
            return b"abc"

    made = Made()
    column = picture_column([PICTURES[0], made])
    assert column[1] is made and column.source.objects == (made,)


def test_a_column_is_a_sequence_that_equals_a_tuple_of_its_items() -> None:
    column = text_column(["a", "b", "c"])
    assert column == ("a", "b", "c") and column != ("a", "b") and column != "abc" and "b" in column
    assert column[-1] == "c" and column[np.int64(1)] == "b" and hash(column) == hash(("a", "b", "c"))
    with pytest.raises(IndexError):
        column[3]


def test_large_columns_go_through_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 100)
    monkeypatch.setattr(spool, "PART", 4)
    words = [f"word {k}" for k in range(200)]
    assert text_column(words) == tuple(words)
    made = spool.NumberSpool("q", tmp_path)
    for k in range(50):
        made.add(k * k)
    assert made.array().tolist() == [k * k for k in range(50)] and not list(tmp_path.iterdir())


def test_a_file_is_read_at_any_index_slice_or_list_of_indices(tmp_path: Path) -> None:
    values = np.arange(2 * FEW, dtype=np.int64) ** 2
    np.save(tmp_path / "a.npy", values)
    for array in (FileArray(tmp_path / "a.npy"), copy.copy(FileArray(tmp_path / "a.npy"))):
        assert len(array) == len(values) and array[7] == 49 and array[-1] == values[-1]
        for index in (slice(3, 9), slice(9, 3), slice(None, None, 3), slice(9, 3, -2), values[:20] % 99, values % 99):
            np.testing.assert_array_equal(array[index], values[index])
        np.testing.assert_array_equal(np.asarray(array), values)
        with pytest.raises(IndexError):
            array[len(values)]


def test_columns_of_files_give_the_same_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmapkd.data.columns.file_array.SMALL", 0)

    def filed(arrays: dict[str, np.ndarray]) -> list[FileArray]:
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
        return [open_array(tmp_path / f"{name}.npy") for name in arrays]  # type: ignore[misc]

    captions = caption_column([["one", "two"], [], ["three"]])
    read = Column(Captions(Texts(*filed(captions.source.texts.arrays("c"))), *filed({"o": captions.source.offsets})))
    assert read == captions and flat(read) == ("one", "two", "three")
    pictures = picture_column(PICTURES)
    where, kinds, *rest = filed(pictures.source.arrays())
    assert Column(Pictures(where, kinds, Texts(*rest[:2]), type(pictures.source.rest)(*rest[2:]))) == PICTURES
    assert Column(Numbers(*filed({"n": np.array([3, 1])}))) == (3, 1)


def test_rows_of_one_name_come_together_in_the_order_of_first_names() -> None:
    found = NamedCaptions()
    for name, caption in (("b", "1"), ("a", "2"), ("b", "3"), ("c", "4"), ("a", "5")):
        found.add(name, [caption])
    names, captions = found.grouped()
    assert names == ("b", "a", "c") and list(captions) == [("1", "3"), ("2", "5"), ("4",)]
