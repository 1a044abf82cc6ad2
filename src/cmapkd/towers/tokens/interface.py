"""Tokenizer: the interface of all tokenizers, texts to rows of token ids and the word of each token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

Decode = Callable[[Sequence[int]], str]
NONE = -1  # the id of a special token that a tokenizer does not have, and the word of a token that belongs to none


class Tokenizer(ABC):
    """Texts to token ids and word indices.

    clean: the model's own cleaning of a text; decode: ids without special tokens back to text; start, end: ids of the tokens that it puts before and after a text, NONE
    where it has no such token; pad: id of padding; context: length of a row of ids; folder: of the tokenizer.json that it
    was read from, else None; has_words: whether the word of a token is known, without which a model has no L1 and L2.
    """

    has_words = True

    def __init__(
        self,
        clean: Callable[[str], str],
        decode: Decode,
        start: int,
        end: int,
        pad: int,
        context: int,
        folder: Path | None,
    ) -> None:
        self.clean, self.decode = clean, decode
        self.start, self.end, self.pad, self.context, self.folder = start, end, pad, context, folder

    @abstractmethod
    def __call__(self, texts: Sequence[str]) -> tuple[Int[Tensor, "n l"], Int[Tensor, "n l"]]:
        """ids int64 [n, L] and words int64 [n, L]: index of the token's white-space word of the text as it was given.

        A token belongs to the word that its first character other than white space lies in; the word is NONE for start,
        end and padding, and everywhere in a tokenizer without words.
        """

    @abstractmethod
    def pieces(self, text: str) -> list[int]:
        """The ids of a text, without special tokens, of any length."""

    def empty(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, words) of rows of padding alone, int64."""
        shape = (rows, self.context)
        return np.full(shape, self.pad, np.int64), np.full(shape, NONE, np.int64)

    def real(self, ids: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """The tokens that are no padding: up to the first end token, or all but padding in a row without one."""
        ends = ids == self.end
        if self.start == self.end:
            ends[:, :1] = False
        column = torch.arange(ids.shape[1], device=ids.device)[None]
        before = column <= ends.int().argmax(1, keepdim=True)
        ended = ends.any(1, keepdim=True)
        return (ended & before) | (~ended & (ids != self.pad))  # onnxruntime has no choice between booleans
