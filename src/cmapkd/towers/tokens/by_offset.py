"""OffsetTokenizer: whole texts through a fast tokenizer of Hugging Face, with words by the character offsets of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cmapkd.towers.tokens.decoding import decoder_of
from cmapkd.towers.tokens.interface import NONE, Tokenizer
from cmapkd.towers.tokens.words import Clean, Cleaning, as_it_is


class OffsetTokenizer(Tokenizer):
    """A tokenizer of the tokenizers library (WordPiece, Unigram, BPE), with its own special tokens and cut as it cuts.

    fast: a tokenizers.Tokenizer; pad_left, cut_left: the side of padding and of what is cut off; strip: id that 0 stands
    for in the rows (open_clip's strip_sep_token), NONE for none.
    """

    def __init__(
        self,
        fast: Any,
        pad: int,
        context: int,
        clean: Clean = as_it_is,
        folder: Path | None = None,
        pad_left: bool = False,
        cut_left: bool = False,
        strip: int = NONE,
    ) -> None:
        fast.no_padding()
        fast.no_truncation()
        empty = fast.encode("").ids
        probe = fast.encode("a")
        text = [sequence is not None for sequence in probe.sequence_ids]
        self._before = text.index(True) if True in text else len(empty)
        self._after = len(empty) - self._before
        start = probe.ids[0] if self._before else NONE
        end = probe.ids[-1] if self._after and probe.ids[-1] != strip else NONE
        super().__init__(clean, decoder_of(fast), start, end, pad, context, folder)
        self._fast, self._cleaning = fast, Cleaning(clean)
        self._pad_left, self._cut_left, self._strip = pad_left, cut_left, strip

    def pieces(self, text: str) -> list[int]:
        return self._fast.encode(self.clean(text), add_special_tokens=False).ids

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, words = self.empty(len(texts))
        cleaned = [self._cleaning.with_owners(text) for text in texts]
        for row, found in enumerate(self._fast.encode_batch([text for text, _ in cleaned])):
            pieces, inside = self._cut(found.ids), slice(self._before, len(found.ids) - self._after)
            owners = [NONE] * self._before + words_of(found.offsets[inside], cleaned[row][1]) + [NONE] * self._after
            place = slice(self.context - len(pieces), None) if self._pad_left else slice(len(pieces))
            ids[row, place] = pieces
            words[row, place] = self._cut(owners)
        if self._strip != NONE:
            ids[ids == self._strip] = 0
        return torch.from_numpy(ids), torch.from_numpy(words)

    def real(self, ids: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        return ids != self.pad if self._pad_left and self.pad != self.end else super().real(ids)

    def _cut(self, row: list[int]) -> list[int]:
        """A row of at most `context` entries: what is too much goes from the text, none of the special tokens."""
        much = len(row) - self.context
        if much <= 0:
            return row
        start = self._before if self._cut_left else len(row) - self._after - much
        return row[:start] + row[start + much :]


def words_of(offsets: Sequence[tuple[int, int]], owners: list[int]) -> list[int]:
    """The word of the token at each span of characters: that of its first character in a word, else of the next one.

    owners: the word of each character. A token of white space at the end of a text is of the last word.
    """
    following = [*owners, max(owners, default=NONE)]
    for place in range(len(owners) - 1, -1, -1):
        if following[place] == NONE:
            following[place] = following[place + 1]
    return [following[first] for first, _ in offsets]
