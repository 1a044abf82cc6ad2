"""Samples drop and count unusable entries, and have a fingerprint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmapkd.core.errors import DataError
from cmapkd.data.duplicates import distinct_captions, shared_captions
from cmapkd.data.gathering import clean, gather
from pictures import picture, samples


def test_what_cannot_be_used_is_dropped_and_counted(tmp_path: Path) -> None:
    there = picture(tmp_path / "a.png")
    rows = {"a": (there, ["one", "  ", "two"]), "b": (there, ["\t"]), "c": (tmp_path / "gone.png", ["three"])}
    found = gather("x", rows, ["before"])
    assert found.ids == ("a",) and found.captions == (("one", "two"),)
    assert found.notes[0] == "before"
    assert {note.split(" dropped")[0] for note in found.notes[1:]} == {
        "2 empty captions", "1 images without a caption", "1 names without a file",
    }  # fmt: skip


def test_data_of_which_nothing_is_left_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x: no usable.*1 names without a file.*data\.images"):
        gather("x", {"c": (tmp_path / "gone.png", ["three"])})


def test_offsets_address_every_caption(tmp_path: Path) -> None:
    found = samples(tmp_path, 4, captions=2).subset(np.array([2, 0]))
    assert found.caption_offsets.tolist() == [0, 2, 4] and found.caption_offsets.dtype == np.int64
    assert found.flat_captions()[found.caption_offsets[1] + 1] == "0 1" and found.n_captions == 4 and len(found) == 2


def test_captions_at_several_images_are_counted_however_they_stand(tmp_path: Path) -> None:
    found = samples(tmp_path, 4).with_captions((("a", "a", "b"), ("b", "c"), ("d",), ("b", "d", "d")))
    assert (shared_captions(found), distinct_captions(found)) == (6, 4)
    assert (shared_captions(found.subset(np.array([0, 1]))), distinct_captions(found.subset(np.array([2])))) == (2, 1)


def test_spans_are_those_of_the_offsets_in_a_whole_and_in_a_subset(tmp_path: Path) -> None:
    whole = samples(tmp_path, 4).with_captions((("a",), (), ("b", "c"), ("d",)))
    for found in (whole, whole.subset(np.array([2, 0, 3]))):
        first, count = found.caption_spans(np.array([2, 0]))
        assert first.tolist() == found.caption_offsets[[2, 0]].tolist()
        assert count.tolist() == [len(found.captions[2]), len(found.captions[0])]


def test_the_fingerprint_sees_ids_captions_order_and_file_sizes(tmp_path: Path) -> None:
    whole = samples(tmp_path, 3)
    prints = {
        whole.fingerprint(),
        whole.subset(np.array([0, 2, 1])).fingerprint(),
        whole.subset(np.array([0, 1])).fingerprint(),
    }
    assert len(prints) == 3 and samples(tmp_path, 3).fingerprint() == whole.fingerprint()
    whole.paths[1].write_bytes(whole.paths[1].read_bytes() + b"x")
    assert whole.subset(np.arange(3)).fingerprint() not in prints


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=60))
def test_any_caption_becomes_one_line_that_utf8_can_hold(text: str) -> None:
    line = clean(text)
    assert line.encode() and "\n" not in line and "\x00" not in line if line else not text.replace("\x00", " ").strip()
    assert clean(line) == line


def test_a_lone_surrogate_does_not_reach_the_tokenizer() -> None:
    assert clean("a \ud800 dog") == "a ? dog"


def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path: Path) -> None:
    there = picture(tmp_path / "a.png")
    found = gather(
        "x", {"a": (there, ["one"]), "b": (tmp_path / ("b" * 5000), ["two"]), "c": (tmp_path / "c\x00.png", ["three"])}
    )
    assert found.ids == ("a",) and "2 names without a file" in found.notes[0]
