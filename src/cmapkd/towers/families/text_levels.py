"""Levels of a text tower, formed in one way for every family: L1 words, L2 phrases, L3 the sentence, L4 the pooled vector."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor

from cmapkd.core.types import Features
from cmapkd.pyramid import levels as lv
from cmapkd.pyramid.maps import mean_tokens


def text_features(
    groups: Sequence[Float[Tensor, "b l d"]],
    pooled: Float[Tensor, "b d"],
    final: Float[Tensor, "b e"],
    words: Int[Tensor, "b l"],
    real: Bool[Tensor, "b l"],
    count: int,
) -> Features:
    """L1..L4 and the final embedding.

    groups: hidden states after each third of the blocks; pooled: the vector that the tower pools from the last of them, in
    its width (L4); words: the index of the word of each token, -1 for none; real: tokens that are no padding; count: words
    of L1.
    """
    shallow, middle, deep = groups
    sentence = mean_tokens(deep, real)
    word, word_mask = lv.pool_words(shallow, words, count)
    phrase, phrase_mask = lv.pool_words(middle, words, -(-count // lv.PHRASE), lv.PHRASE)
    tokens = (word, phrase, sentence[:, None], pooled[:, None])
    vectors = (
        lv.mean_max(word, word_mask),
        lv.mean_max(phrase, phrase_mask),
        lv.mean_max(deep, real),
        lv.summary_mean(pooled, sentence),
    )
    return Features(tokens, (word_mask, phrase_mask, None, None), vectors, final)
