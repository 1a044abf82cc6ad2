"""Whole texts through fast tokenizers: the library's own ids, and words by the offsets of tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, canonicalize_text

from cmapkd.core.errors import UsageError
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.towers.tokens.by_offset import OffsetTokenizer
from cmapkd.towers.tokens.by_word import WordTokenizer
from towers.tokens.toy_tokenizers import KINDS, SENTENCES, byte_level, letters, unigram, word_piece

TRICKY = "ab,.é\u0301ﬁ½İß'’\"&;<>_#-  \t\n\u00a0\u200b\u3000東京😀👩‍👧🇩🇪\x00\x1c▁Ġ</s>"
TEXTS = [*SENTENCES[:5], "", " two  spaces\tand a tab ", "a😀b é e\u0301 ﬁ ½", "x" * 90, "x " * 90]
ANY = st.one_of(st.text(TRICKY, max_size=40), st.text(max_size=20))


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def library(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def ours(folder):
    return tok.from_hugging_face(folder, 24)


def rows(library, texts, context=24):
    return library(texts, padding="max_length", truncation=True, max_length=context, return_tensors="pt")


def test_ids_are_those_of_transformers_and_real_tokens_are_those_that_it_attends_to(library, ours):
    wanted = rows(library, TEXTS)
    ids, words = ours(TEXTS)
    assert torch.equal(ids, wanted.input_ids) and ids.shape == words.shape
    assert torch.equal(ours.real(ids), wanted.attention_mask.bool())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=ANY)
def test_ids_of_any_text_are_those_of_transformers(library, ours, text):
    assert torch.equal(ours([text])[0], rows(library, [text]).input_ids)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=ANY)
def test_the_word_of_a_token_is_the_one_that_its_first_character_lies_in(library, ours, text):
    words = ours([text])[1][0].tolist()
    found = library(text, return_offsets_mapping=True, truncation=True, max_length=24)
    last = len(text.split()) - 1
    for sequence, (first, stop), word in zip(found.sequence_ids(), found.offset_mapping, words, strict=False):
        inside = [k for k in range(first, stop) if not text[k].isspace()]
        if sequence is None:
            assert word == -1
        elif inside:
            assert word == len(text[: inside[0] + 1].split()) - 1
        else:  # white space alone, or no character at all: the next word, or the last one
            assert word == min(len(text[:first].split()), last)
    assert set(words[len(found.input_ids) :]) <= {-1}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    words=st.lists(st.text("abz,.!é東😀9", min_size=1, max_size=4), min_size=1, max_size=6), gap=st.sampled_from(" \t ")
)
def test_every_word_has_a_token_and_their_order_is_that_of_the_text(folder, words, gap):
    numbers = tok.from_hugging_face(folder, 200)([gap.join(words)])[1][0]
    found = numbers[numbers >= 0].tolist()
    assert sorted(set(found)) == list(range(len(words))) and found == sorted(found)


@pytest.mark.parametrize(("trim", "prefix"), [(True, False), (False, False), (False, True), (True, True)])
def test_the_space_that_is_part_of_a_byte_level_token_does_not_move_it_to_the_word_before(tmp_path, trim, prefix):
    ours = tok.from_hugging_face(byte_level(tmp_path, trim=trim, prefix=prefix), 40)
    ids, words = ours(["a photo 😀 of"])
    parts = [[int(i) for i, word in zip(ids[0], words[0], strict=True) if word == k] for k in range(4)]
    assert [ours.decode(part).strip() for part in parts] == ["a", "photo", "😀", "of"]


def test_two_tokenizers_number_the_same_words_where_one_of_them_drops_punctuation(tmp_path):
    text = "A dog , wearing -- 2 red_collars ... barks!"
    options = {"clean": "canonicalize"}
    siglip = tok.from_folder(unigram(tmp_path / "u"), 64, options)
    bert = tok.from_folder(word_piece(tmp_path / "w"), 64)
    mine, theirs = siglip([text])[1], bert([text])[1]
    assert sorted(set(mine[0].tolist())) == [-1, 0, 1, 3, 5, 6, 8]
    assert sorted(set(theirs[0].tolist())) == [-1, *range(9)]


@pytest.mark.parametrize("options", [{}, {"clean": "canonicalize"}, {"clean": "lower"}])
def test_a_folder_is_read_as_open_clip_reads_it(folder, options):
    ours, library = tok.from_folder(folder, 24, options), HFTokenizer(str(folder), context_length=24, **options)
    assert torch.equal(ours(TEXTS)[0], library(TEXTS))


def test_a_separator_that_open_clip_strips_becomes_padding(tmp_path):
    folder = word_piece(tmp_path)
    ours = tok.from_folder(folder, 24, {"strip_sep_token": True})
    library = HFTokenizer(str(folder), context_length=24, strip_sep_token=True)
    ids, words = ours(TEXTS)
    assert torch.equal(ids, library(TEXTS)) and ours.end == -1
    assert torch.equal(ours.real(ids), ids != 0) and int(words.max()) > 0


def test_what_is_too_long_is_cut_and_padded_on_the_side_that_the_folder_names(tmp_path):
    from transformers import AutoTokenizer

    folder = unigram(tmp_path, padding_side="left", truncation_side="left")
    ours, library = tok.from_hugging_face(folder, 12), AutoTokenizer.from_pretrained(str(folder))
    ids, words = ours(TEXTS)
    wanted = rows(library, TEXTS, 12)
    assert torch.equal(ids, wanted.input_ids) and torch.equal(ours.real(ids), wanted.attention_mask.bool())
    assert ours(["one two three four five six seven eight"])[1][0, -2] == 7


def test_special_tokens_are_those_that_the_tokenizer_puts_around_a_text(tmp_path):
    bert = tok.from_hugging_face(word_piece(tmp_path / "w"), 16)
    t5 = tok.from_hugging_face(unigram(tmp_path / "u"), 16)
    assert (bert.start, bert.end, bert.pad) == (2, 3, 0) and (t5.start, t5.end, t5.pad) == (-1, 1, 0)
    assert isinstance(bert, OffsetTokenizer) and isinstance(t5, OffsetTokenizer)
    assert isinstance(tok.from_folder(word_piece(tmp_path / "w"), 16), WordTokenizer)


def test_ids_are_read_back_by_the_librarys_own_decoding(library, ours):
    for text in SENTENCES[:5]:
        ids = library(text, add_special_tokens=False).input_ids
        assert ours.pieces(text) == ids
        assert ours.decode(ids) == library.backend_tokenizer.decode(ids)


def test_a_tokenizer_without_offsets_has_no_words(tmp_path, capsys):
    from transformers import AutoTokenizer

    ours, library = tok.from_hugging_face(letters(tmp_path), 24), AutoTokenizer.from_pretrained(str(tmp_path))
    assert "no L1 and L2" in capsys.readouterr().err
    ids, words = ours(TEXTS)
    assert torch.equal(ids, rows(library, TEXTS).input_ids) and not ours.has_words and bool((words == -1).all())
    assert (ours.start, ours.end, ours.pad) == (-1, 1, 0) and ours.decode(ours.pieces("a dog")) == "a dog"
    assert torch.equal(ours.real(ids), rows(library, TEXTS).attention_mask.bool())


def test_siglips_punctuation_is_dropped_although_transformers_reads_its_tokenizer_without_offsets(tmp_path):
    plain = tok.from_hugging_face(unigram(tmp_path), 32)
    config = tmp_path / "tokenizer_config.json"  # trained once: two trainings may number pieces differently
    config.write_text(config.read_text().replace("PreTrainedTokenizerFast", "SiglipTokenizer"))
    ours = tok.from_hugging_face(tmp_path, 32)
    text = "A dog , in_the Park!"
    ids, words = ours([text])
    assert torch.equal(ids, plain([canonicalize_text(text.replace("_", ""))])[0])
    assert ours.has_words and sorted(set(words[0].tolist())) == [-1, 0, 1, 3, 4]


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="tokenizer cannot be read") as error:
        tok.from_hugging_face(tmp_path, 16)
    assert "\n" not in str(error.value)
