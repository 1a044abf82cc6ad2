"""Word by word: the ids of open_clip's own tokenizer, and words numbered as in the text before cleaning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer, get_clean_fn

from cmapkd.core.errors import UsageError
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.towers.tokens.words import Cleaning, aligned, as_it_is, owners_of

CLEANINGS = ("lower", "whitespace", "canonicalize")
TRICKY = "ab,.é\u0301ﬁ½İß'’\"&;amplt#39<_-  \t\n\u00a0\u200b東😀\x1câ€™"
ANY = st.one_of(st.text(TRICKY, max_size=40), st.text(max_size=20), st.text(st.characters(max_codepoint=127)))


@pytest.fixture(scope="module", params=CLEANINGS)
def library(request):
    return SimpleTokenizer(clean=request.param)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=ANY)
def test_ids_of_any_text_are_those_of_open_clip(library, text):
    ours = tok.from_open_clip(library, 77)
    expected = [library.sot_token_id, *library.encode(text), library.eot_token_id]
    assert torch.equal(ours([text])[0], library([text])) and ours.pieces(text) == expected[1:-1]


def test_long_texts_are_cut_before_the_end_token(library):
    texts = ["dog " * 200, "a&amp;b don’t naïve"]
    assert torch.equal(tok.from_open_clip(library, 20)(texts)[0], library(texts, 20))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(st.characters(max_codepoint=127), max_size=40))
@pytest.mark.parametrize("name", CLEANINGS)
def test_cleaning_word_by_word_gives_the_cleaned_text(name, text):
    clean = get_clean_fn(name)
    words = Cleaning(clean).words(text)
    assert words is None or " ".join(filter(None, words)) == clean(text)
    if text.isprintable() and "&" not in text:
        assert words is not None


def test_words_are_numbered_as_in_the_text_before_punctuation_was_dropped():
    ours = tok.from_open_clip(SimpleTokenizer(clean="canonicalize"), 32)
    assert sorted(set(ours(["A dog , in_the -- park !"])[1][0].tolist())) == [-1, 0, 1, 3, 5]


def test_a_text_that_is_repaired_as_a_whole_keeps_the_words_of_the_characters_that_stay():
    text = "the dogâ€™s \u00a0 café &lt;b&gt; ends"
    ours = tok.from_open_clip(SimpleTokenizer(), 32)
    ids, words = ours([text])
    assert torch.equal(ids, SimpleTokenizer()([text], 32))
    place = ids[0].tolist().index(ours.pieces("ends")[0])
    assert int(words[0, place]) == len(text.split()) - 1


def test_aligned_characters_take_the_word_of_what_both_texts_share():
    assert aligned("One (two) THREE", "one two three") == [0, 0, 0, -1, 1, 1, 1, -1, 2, 2, 2, 2, 2]
    assert aligned("", "") == [] and aligned("a b", "xyz") == [0, 0, 0]
    assert owners_of("  a bc ") == [-1, -1, 0, -1, 1, 1, -1]
    assert Cleaning(as_it_is).with_owners(" İ b") == (" İ b", [-1, 0, -1, 1])


def test_an_unknown_tokenizer_is_refused():
    with pytest.raises(UsageError, match="neither open_clip's nor Hugging Face's"):
        tok.from_open_clip(object(), 77)
