"""Splitting captions by script: which scripts count as languages, and the samples of each."""

import pytest

from cmapkd.data.samples import Samples
from cmapkd.data.scripts import by_script, script


@pytest.mark.parametrize(
    ("caption", "name"),
    [("a red star .", "latin"), ("红色的星 A", "cjk"), ("красная звезда", "cyrillic"), ("κόκκινο αστέρι", "greek"), ("12 !", "")],
)  # fmt: skip
def test_a_caption_has_the_script_of_most_of_its_letters(caption, name):
    assert script(caption) == name


def test_each_language_keeps_its_own_captions_and_the_images_that_have_some(tmp_path):
    paths = tuple(tmp_path / name for name in "abc")
    captions = (("a star", "星"), ("two rings", "a ring"), ("树", "红色的树"))
    parts = by_script(Samples("x", ("a", "b", "c"), paths, captions, labels=(0, 1, 2), classes=("s", "r", "t")))
    assert list(parts) == ["cjk", "latin"]
    assert parts["cjk"].ids == ("a", "c") and parts["cjk"].captions == (("星",), ("树", "红色的树"))
    assert parts["latin"].ids == ("a", "b") and parts["latin"].labels == (0, 1)
    assert parts["latin"].paths == paths[:2]


def test_one_script_with_a_foreign_name_here_and_there_is_one_language(tmp_path):
    captions = (("a star",) * 29 + ("星",),)
    assert by_script(Samples("x", ("a",), (tmp_path / "a",), captions)) == {}
