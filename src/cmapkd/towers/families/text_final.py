"""FinalText: a text tower of another family, read for its final embedding only; and the refusal of terms that need more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import Features
from cmapkd.towers.dual import DualEncoder
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
        raise UsageError(f"text tower {type(self.native).__name__} has no levels L1-L4; use its final embedding")

    def encode(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        return self._clip.encode_text(ids)

    def trim(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """The ids as they are: whether padding matters to this tower is unknown."""
        return ids


def require_text_levels(tower: DualEncoder, role: str, readers: Iterable[str]) -> None:
    """Raise UsageError where there are `readers` (terms of a loss, a policy, a head, the cache) and no text levels.

    role: the tower's place in the config, such as `teacher.model`.
    """
    names = list(readers)
    if names and not tower.text.has_levels:
        raise UsageError(
            f"{role} {tower.name}: its text tower ({type(tower.text.native).__name__}) has no levels L1-L4, but these are "
            f"needed by {', '.join(names)}; use a model with an open_clip text transformer, or terms of final embeddings "
            "(such as method: clip_kd) and no cache.path"
        )


TEXT_TOWERS = {"final": FinalText}
