"""Whole texts through fast tokenizers: the library's own ids, and words by the offsets of tokens."""

from __future__ import annotations

import pytest
import torch

from cmapkd.core.errors import UsageError
from cmapkd.towers.tokens import tokenizer as tok
from towers.tokens.toy_tokenizers import KINDS, SENTENCES

TEXTS = [*SENTENCES[:5], "", " two  spaces\tand a tab ", "a😀b é e\u0301 ﬁ ½", "x" * 90]


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


def test_ids_are_those_of_transformers_and_real_tokens_are_those_that_it_attends_to(folder):
    from transformers import AutoTokenizer

    wanted = AutoTokenizer.from_pretrained(str(folder))(
        TEXTS, padding="max_length", truncation=True, max_length=24, return_tensors="pt"
    )
    ours = tok.from_hugging_face(folder, 24)
    ids, words = ours(TEXTS)
    assert torch.equal(ids, wanted.input_ids) and ids.shape == words.shape
    assert torch.equal(ours.real(ids), wanted.attention_mask.bool())


def test_each_token_lies_in_its_word(folder):
    words = tok.from_hugging_face(folder, 77)(["A small dog, wearing"])[1][0]
    first = words[words >= 0].tolist()
    assert sorted(set(first)) == [0, 1, 2, 3] and first == sorted(first)


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="no tokenizer can be read here") as error:
        tok.from_hugging_face(tmp_path, 16)
    assert "\n" not in str(error.value)
