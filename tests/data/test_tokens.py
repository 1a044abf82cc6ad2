"""Captions are tokenised when a batch needs them; the tokens of small data are kept."""

from __future__ import annotations

import torch

from cmapkd.data.tokens import CaptionTokens


class Counting:
    """A tokenizer that counts the texts it is given."""

    def __init__(self) -> None:
        self.texts = 0

    def __call__(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        self.texts += len(texts)
        ids = torch.tensor([[len(text), ord(text[0]) * 70_000, 0] for text in texts])
        return ids, torch.tensor([[-1, 0, -1]] * len(texts))


def test_tokens_are_those_of_the_tokenizer_and_each_caption_is_tokenised_once_where_they_are_kept():
    made, captions = Counting(), ["one", "three", "fifteen"]
    tokens = CaptionTokens(captions, made)
    assert made.texts == 0
    for _ in range(3):
        ids, words = tokens(torch.tensor([2, 0]))
        wanted = Counting()(["fifteen", "one"])
        assert torch.equal(ids, wanted[0]) and torch.equal(words, wanted[1]) and ids.dtype == words.dtype == torch.int64
    assert made.texts == 2


def test_captions_whose_tokens_are_too_many_to_keep_are_tokenised_each_time():
    made = Counting()
    tokens = CaptionTokens(["one", "three"], made, kept=2 * 3 * 6 - 1)
    assert torch.equal(tokens(torch.tensor([1]))[0], tokens(torch.tensor([1]))[0]) and made.texts == 2
