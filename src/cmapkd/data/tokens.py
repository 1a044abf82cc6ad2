"""Token ids of captions, made batch by batch; those of small data are kept, so that later epochs need not make them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

KEPT = 128 * 2**20  # bytes of kept tokens; captions that would take more are tokenised each time
Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]


class CaptionTokens:
    """Tokens of captions by their caption index. kept: bytes to keep them in, all or none; may be used by several threads."""

    def __init__(self, captions: Sequence[str], tokenize: Tokenize, kept: int = KEPT) -> None:
        self.captions, self.tokenize, self.kept = captions, tokenize, kept
        self._known: _Known | None = None

    def __call__(self, rows: Int[Tensor, " b"]) -> tuple[Int[Tensor, "b l"], Int[Tensor, "b l"]]:
        """(token ids, index of each token's word), as the tokenizer gives them for the captions of these indices."""
        wanted = rows.numpy()
        known = self._known
        if known is not None and known.made[wanted].all():
            return known.read(wanted)
        numbers: list[int] = wanted.tolist()
        ids, words = self.tokenize([self.captions[row] for row in numbers])
        if known is None and len(self.captions) * ids.shape[1] * _Known.BYTES <= self.kept:
            known = self._known = _Known(len(self.captions), ids.shape[1])
        if known is not None:
            known.write(wanted, ids, words)
        return ids, words


class _Known:
    """Tables of n captions of L tokens; memory is taken as rows are written."""

    BYTES = 6  # of a token

    def __init__(self, n: int, length: int) -> None:
        self.ids, self.words = np.zeros((n, length), np.int32), np.zeros((n, length), np.int16)
        self.made = np.zeros(n, bool)

    def read(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.ids[rows]).long(), torch.from_numpy(self.words[rows]).long()

    def write(self, rows: np.ndarray, ids: Tensor, words: Tensor) -> None:
        self.ids[rows], self.words[rows] = ids.numpy(), words.numpy()
        self.made[rows] = True  # last, since other threads read
