"""WordTokenizer: one white-space word at a time, with the ids of known words kept, for tokenizers that never merge across words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cmapkd.towers.tokens.interface import Decode, Tokenizer
from cmapkd.towers.tokens.words import WORDS, Cleaning


class WordTokenizer(Tokenizer):
    """CLIP-type tokenizers: the ids of a text are those of its words, between a start and an end token.

    encode: the ids of one cleaned word.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        decode: Decode,
        clean: Callable[[str], str],
        start: int,
        end: int,
        pad: int,
        context: int,
        folder: Path | None = None,
    ) -> None:
        super().__init__(clean, decode, start, end, pad, context, folder)
        self._encode, self._cleaning = encode, Cleaning(clean)
        self._known: dict[str, list[int]] = {}

    def pieces(self, text: str) -> list[int]:
        return self._owned(text)[0]

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, words = self.empty(len(texts))
        for row, text in enumerate(texts):
            pieces, owners = self._owned(text)
            length = min(len(pieces), self.context - 2)
            ids[row, : length + 2] = [self.start, *pieces[:length], self.end]
            words[row, 1 : length + 1] = owners[:length]
        return torch.from_numpy(ids), torch.from_numpy(words)

    def _owned(self, text: str) -> tuple[list[int], list[int]]:
        """(ids, index of the word of each) of a text of any length."""
        words = self._cleaning.words(text)
        parts = enumerate(words) if words is not None else self._parts(text)
        pieces: list[int] = []
        owners: list[int] = []
        for index, part in parts:
            found = self._ids(part)
            pieces += found
            owners += [index] * len(found)
        return pieces, owners

    def _parts(self, text: str) -> list[tuple[int, str]]:
        """(index of its word in the text as given, cleaned word) where words cannot be cleaned one by one."""
        cleaned, owners = self._cleaning.with_owners(text)
        parts, place = [], 0
        for word in cleaned.split():
            place = cleaned.index(word, place)
            parts.append((owners[place], word))
            place += len(word)
        return parts

    def _ids(self, part: str) -> list[int]:
        if (known := self._known.get(part)) is not None:
            return known
        ids = [piece for word in part.split() for piece in self._encode(word)]
        if len(self._known) < WORDS:
            self._known[part] = ids
        return ids
