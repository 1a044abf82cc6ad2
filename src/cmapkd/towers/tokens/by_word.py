"""WordTokenizer: one white-space word at a time, with the ids of known words kept, for tokenizers that never merge across words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cmapkd.towers.tokens.interface import NONE, Tokenizer

WORDS = 200_000  # different words whose ids are kept; a web-scale set has millions, most of which come once


class WordTokenizer(Tokenizer):
    """CLIP-type tokenizers: the ids of a text are those of its words, between a start and an end token."""

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        clean: Callable[[str], str],
        start: int,
        end: int,
        pad: int,
        context: int,
        folder: Path | None = None,
    ) -> None:
        super().__init__(clean, start, end, pad, context, folder)
        self._encode = encode
        self._known: dict[str, list[int]] = {}

    def word(self, word: str) -> list[int]:
        """The ids of one word."""
        if (known := self._known.get(word)) is not None:
            return known
        ids = self._encode(word)
        if len(self._known) < WORDS:
            self._known[word] = ids
        return ids

    def pieces(self, text: str) -> list[int]:
        return [piece for word in self.clean(text).split() for piece in self.word(word)]

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = torch.full((len(texts), self.context), self.pad, dtype=torch.int64)
        words = torch.full((len(texts), self.context), NONE, dtype=torch.int64)
        for row, text in enumerate(texts):
            pieces = [
                (piece, index) for index, word in enumerate(self.clean(text).split()) for piece in self.word(word)
            ]
            pieces = pieces[: self.context - 2]
            length = len(pieces)
            ids[row, : length + 2] = torch.tensor([self.start, *(piece for piece, _ in pieces), self.end])
            words[row, 1 : length + 1] = torch.tensor([index for _, index in pieces], dtype=torch.int64)
        return ids, words
