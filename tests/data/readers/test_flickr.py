"""Flickr's three forms of captions file, and its split lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.readers import open_samples
from pictures import config, picture

TOKEN = "a.jpg#0\tA dog , it runs .\na.jpg#1\tTwo | dogs\nb.jpg#0\ta, b\nbogus.jpg.1#0\tnothing\n"
KAGGLE = (
    "image_name| comment_number| comment\na.jpg| 0| A dog , it runs .\na.jpg| 1| Two | dogs\nb.jpg| 0   a, b\nrubbish\n"
)
COMMAS = 'image,caption\na.jpg,"A dog , it runs ."\na.jpg,Two | dogs\nb.jpg,a, b\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "Images" / name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.token.txt", TOKEN),
        ("results.csv", KAGGLE),
        ("captions.txt", COMMAS),
        ("x.txt", "\ufeff" + TOKEN.replace("\n", "\r\n")),
    ],
)
def test_all_three_forms_say_the_same(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_bytes(text.encode())
    found = open_samples(str(path), config(path), None)
    assert found.ids == ("a.jpg", "b.jpg")
    assert found.captions == (("A dog , it runs .", "Two | dogs"), ("a, b",))


def test_bogus_names_and_malformed_rows_are_counted(folder: Path) -> None:
    for text, note in (
        (TOKEN, "1 names without a file dropped (first: 'bogus.jpg.1')"),
        (KAGGLE, "1 malformed rows dropped (first: line 5)"),
    ):
        path = folder / "x.txt"
        path.write_text(text)
        assert note in open_samples(str(path), config(path), None).notes


@pytest.mark.parametrize("split", ["dev", "val", "Flickr_8k.devImages.txt", "PATH"])
def test_a_split_is_a_word_a_name_or_a_path(folder: Path, split: str) -> None:
    path, listed = folder / "Flickr8k.token.txt", folder / "Flickr_8k.devImages.txt"
    path.write_text(TOKEN)
    listed.write_text("b.jpg\nabsent.jpg\n")
    found = open_samples(str(path), config(path), str(listed) if split == "PATH" else split)
    assert found.ids == ("b.jpg",)
    assert any("1 names of split" in note and "without a caption" in note for note in found.notes)


def test_a_split_without_a_list_names_the_lists_there(folder: Path) -> None:
    (folder / "x.token.txt").write_text(TOKEN)
    (folder / "Flickr_8k.devImages.txt").write_text("b.jpg\n")
    with pytest.raises(UsageError, match="no list file for split 'test'.*Flickr_8k.devImages.txt"):
        open_samples(str(folder / "x.token.txt"), config("x"), "test")


def test_a_list_of_other_names_is_refused_with_both_spellings(folder: Path) -> None:
    (folder / "x.token.txt").write_text(TOKEN)
    (folder / "list.txt").write_text("c\n")
    with pytest.raises(DataError, match="no name of split.*'c'.*'a.jpg'"):
        open_samples(str(folder / "x.token.txt"), config("x"), "list.txt")


@pytest.mark.parametrize(("text", "words"), [("", "empty"), ("hello\nworld\n", "no row reads.*first row: 'hello'")])
def test_a_file_without_such_rows_shows_its_first(folder: Path, text: str, words: str) -> None:
    (folder / "x.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        open_samples(str(folder / "x.txt"), config("x", format="flickr"), None)


def test_a_list_without_extensions_is_that_of_flickr30k_entities(folder: Path) -> None:
    (folder / "results_20130124.token").write_text(TOKEN)
    (folder / "val.txt").write_text("b\n")
    assert open_samples(str(folder), config(folder), "val").ids == ("b.jpg",)


@pytest.mark.parametrize("place", ["flickr30k_images/flickr30k_images", "flickr30k-images", "flickr30k_images"])
def test_the_layouts_of_flickr30k_are_found_from_their_root(tmp_path: Path, place: str) -> None:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / place / name)
    captions = tmp_path / place.split("/")[0] if "/" in place else tmp_path
    (captions / "results.csv").write_text(KAGGLE)
    assert open_samples(str(tmp_path), config(tmp_path), None).ids == ("a.jpg", "b.jpg")


def test_the_table_of_flickr30k_with_lists_of_captions(tmp_path: Path) -> None:
    picture(tmp_path / "flickr30k-images" / "a.jpg")
    (tmp_path / "flickr_annotations_30k.csv").write_text(
        'raw,sentids,split,filename,img_id\n"[""A dog , running ."", ""Two [dogs]""]","[0, 1]",test,a.jpg,0\n'
    )
    found = open_samples(str(tmp_path), config("x", image_key="filename", text_key="raw"), "test")
    assert found.captions == (("A dog , running .", "Two [dogs]"),)
