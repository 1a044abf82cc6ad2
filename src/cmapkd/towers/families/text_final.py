"""FinalText: a text tower of another family, read for its final embedding only."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from cmapkd.core.types import Features
from cmapkd.towers.families.text_clip import text_part
from cmapkd.towers.tokens.tokenizer import Tokenizer


class FinalText:
    """The text part of a CustomTextCLIP that is no open_clip transformer, such as a Hugging Face BERT."""

    has_levels = False
    widths: tuple[int, ...] = ()

    def __init__(self, clip: nn.Module, tokenizer: Tokenizer, words: int) -> None:
        self._clip: Any = clip
        self.tokenizer, self.words = tokenizer, words

    @property
    def native(self) -> nn.Module:
        return text_part(self._clip)

    def levels(self, ids: Int[Tensor, "b l"], words: Int[Tensor, "b m"], trimmed: bool = False) -> Features:
        """The final embedding alone, without levels."""
        return Features((), (), (), self.encode(ids))

    def encode(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        return self._clip.encode_text(ids)

    def trim(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """The ids as they are: whether padding matters to this tower is unknown."""
        return ids


TEXT_TOWERS = {"final": FinalText}
