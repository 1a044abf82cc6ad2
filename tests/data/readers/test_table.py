"""CSV and TSV: the separator is found, wrong columns are named with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmapkd.core.errors import CmapkdError, DataError
from cmapkd.data.readers import open_samples
from pictures import config, picture


def table(folder: Path, text: str, name: str = "t.csv") -> str:
    picture(folder / "a.png")
    picture(folder / "b.png")
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
def test_the_separator_is_the_one_that_finds_the_keys(tmp_path: Path, separator: str) -> None:
    rows = [["filepath", "title"], ["a.png", "a dog"], ["b.png", "two"], ["a.png", "a cat"]]
    path = table(tmp_path, "\n".join(separator.join(row) for row in rows))
    found = open_samples(path, config(path), None)
    assert found.ids == ("a.png", "b.png") and found.captions == (("a dog", "a cat"), ("two",))


def test_quoted_cells_may_hold_separators_and_a_lone_quote_in_a_tsv_is_text(tmp_path: Path) -> None:
    path = table(tmp_path, 'filepath,title\na.png,"a dog, ""Rex"", runs"\nb.png,two\n')
    assert open_samples(path, config(path), None).captions == (('a dog, "Rex", runs',), ("two",))
    path = table(tmp_path, 'filepath\ttitle\na.png\t"hello\nb.png\ttwo\n', "t.tsv")
    assert open_samples(path, config(path), None).captions == (('"hello',), ("two",))


def test_other_keys_and_a_split_column_are_obeyed(tmp_path: Path) -> None:
    path = table(tmp_path, "id,img,words,split\n1,a.png,one,train\n2,b.png,two,val\n3,a.png,three\n")
    found = open_samples(path, config(path, image_key="img", text_key="words", separator=","), "val")
    assert found.captions == (("two",),)


@pytest.mark.parametrize(
    ("text", "keys", "words"),
    [
        (
            "image\tcaption\na.png\tx\n",
            {},
            r"no column 'filepath' \(separator tab\); columns found: image, caption; "
            "set data.image_key: image and data.text_key: caption",
        ),
        (
            "filepath;title\na.png;x\n",
            {"separator": ","},
            r"columns found: filepath;title; one column only.*set data.separator",
        ),
        (
            "filepath,foo\na.png,x\n",
            {},
            "no column 'title'.*columns found: filepath, foo; set data.image_key and data.text_key",
        ),
        ("filepath,title\n", {}, "a header but no usable row"),
        ("filepath,title\na.png\n", {}, "a header but no usable row"),
    ],
)
def test_a_wrong_key_or_separator_names_the_columns_found(
    tmp_path: Path, text: str, keys: dict[str, str], words: str
) -> None:
    path = table(tmp_path, text)
    with pytest.raises(DataError, match=words) as caught:
        open_samples(path, config(path, **keys), None)
    assert "\n" not in str(caught.value)


def test_absolute_paths_are_used_as_they_are(tmp_path: Path) -> None:
    there = picture(tmp_path / "far" / "away" / "x.png")
    path = table(tmp_path, f"filepath,title\n{there},x\n")
    assert open_samples(path, config(path), None).paths == (there,)


@pytest.mark.parametrize("text", ["\n\n", "a", ",,,\n,,,", 'filepath,title\n"', "filepath,title\n\x01,\x02"])
def test_odd_tables_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(CmapkdError):
        open_samples(path, config(path), None)
