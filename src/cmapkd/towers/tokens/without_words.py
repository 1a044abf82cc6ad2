"""WordlessTokenizer: a tokenizer that gives no character offsets, so that the word of a token is unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.towers.tokens.interface import NONE, Tokenizer
from cmapkd.towers.tokens.words import Clean


class WordlessTokenizer(Tokenizer):
    """A tokenizer of transformers in Python alone; `call` gives the rows of ids, int64 [n, L]."""

    has_words = False

    def __init__(
        self, inner: Any, call: Callable[[list[str]], Tensor], clean: Clean, context: int, folder: Path | None
    ) -> None:
        text, row = inner("a", add_special_tokens=False).input_ids, inner("a").input_ids
        places = [k for k in range(len(row)) if text and row[k : k + len(text)] == text] or [0]
        start = row[0] if places[0] > 0 else NONE
        end = row[-1] if places[0] + len(text) < len(row) else NONE
        pad = next((i for i in (inner.pad_token_id, inner.eos_token_id) if i is not None), 0)
        super().__init__(
            clean, lambda ids: inner.decode(list(ids), skip_special_tokens=True), start, end, pad, context, folder
        )
        self._inner, self._call = inner, call

    def pieces(self, text: str) -> list[int]:
        return self._inner(self.clean(text), add_special_tokens=False).input_ids

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = self._call(list(texts)).long()
        return ids, torch.full_like(ids, NONE)
