"""OffsetTokenizer: whole texts through a fast tokenizer of Hugging Face, with words by the character offsets of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.towers.tokens.interface import NONE, Tokenizer
from cmapkd.towers.tokens.words import words_of_characters


class OffsetTokenizer(Tokenizer):
    """A tokenizer of the tokenizers library (WordPiece, Unigram, BPE), cut at `context` tokens as transformers does.

    fast: a tokenizers.Tokenizer of this object's own; left: whether padding comes before the text.
    """

    def __init__(
        self,
        fast: Any,
        clean: Callable[[str], str],
        pad: int,
        context: int,
        folder: Path | None = None,
        left: bool = False,
        cut_left: bool = False,
    ) -> None:
        fast.no_padding()
        fast.enable_truncation(context, direction="left" if cut_left else "right")
        probe = fast.encode("a")
        inside = [sequence is not None for sequence in probe.sequence_ids]
        start = NONE if not inside or inside[0] else probe.ids[0]
        end = NONE if not inside or inside[-1] else probe.ids[-1]
        super().__init__(clean, start, end, pad, context, folder)
        self._fast, self._left = fast, left

    def pieces(self, text: str) -> list[int]:
        self._fast.no_truncation()
        return self._fast.encode(self.clean(text), add_special_tokens=False).ids

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = torch.full((len(texts), self.context), self.pad, dtype=torch.int64)
        words = torch.full((len(texts), self.context), NONE, dtype=torch.int64)
        cleaned = [self.clean(text) for text in texts]
        for row, found in enumerate(self._fast.encode_batch(cleaned)):
            place = slice(self.context - len(found.ids), None) if self._left else slice(len(found.ids))
            ids[row, place] = torch.tensor(found.ids, dtype=torch.int64)
            owners = words_of_characters(texts[row], cleaned[row], self.clean)
            words[row, place] = torch.tensor(
                [
                    NONE if sequence is None else owner(owners, *span)
                    for sequence, span in zip(found.sequence_ids, found.offsets, strict=True)
                ],
                dtype=torch.int64,
            )
        return ids, words


def owner(owners: list[int], first: int, stop: int) -> int:
    """The word of the token of characters first..stop: that of its first character in a word, else of the next one, else of the last."""
    for place in range(first, len(owners)):
        if owners[place] != NONE:
            return owners[place]
    return max(owners, default=NONE)
