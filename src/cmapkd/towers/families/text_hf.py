"""HfText: the text half of a Hugging Face model, read through its hidden states, as a TextTower."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import Features
from cmapkd.pyramid import levels as lv
from cmapkd.towers.evaluating import evaluating
from cmapkd.towers.families.text_levels import text_features
from cmapkd.towers.families.trimmed import STEP
from cmapkd.towers.tokens.tokenizer import Tokenizer

LAST = ("siglip_text_model", "siglip2_text_model")  # pool the last position, padding or not, and attend to padding
END = ("clip_text_model", "metaclip_2_text_model")  # causal, pool the end token; all others pool the first token


class TextHalf(nn.Module):
    """A text model of transformers and the projection of its pooled vector.

    pooled: `pooler` is the model's own pooled vector, `first` the first token. The modules belong to the whole model too.
    """

    def __init__(
        self, text: nn.Module, projection: nn.Module | None = None, pooled: Literal["pooler", "first"] = "pooler"
    ) -> None:
        super().__init__()
        self.text: Any = text
        self.projection = projection
        self.pooled = pooled
        kind = str(self.text.config.model_type)
        self.masked = kind not in LAST
        self.position: Literal["first", "end", "last"] = "last" if kind in LAST else "end" if kind in END else "first"
        self.train(text.training)

    def read(self, ids: Tensor, real: Tensor, hidden: bool = False) -> Any:
        """The text model's own output, with its hidden states where asked for."""
        states = {"output_hidden_states": True} if hidden else {}
        return self.text(input_ids=ids, attention_mask=real.long() if self.masked else None, **states)

    def embedding(self, out: Any) -> Tensor:
        """The final embedding [B, E] of the text model's output, not normalised."""
        pooled = out.last_hidden_state[:, 0] if self.pooled == "first" else getattr(out, "pooler_output", None)
        if pooled is None:
            raise UsageError(
                f"text tower {type(self.text).__name__} has no pooled vector (pooler_output), from which its model "
                "projects; use one that has"
            )
        return pooled if self.projection is None else self.projection(pooled)


class HfText:
    """L1 words, L2 phrases, L3 the sentence from three groups of blocks; L4 is the token that the model pools.

    taps: index of the hidden state after each group.
    """

    def __init__(self, half: TextHalf, tokenizer: Tokenizer, words: int) -> None:
        self._half = half
        self.tokenizer, self.words, self.has_levels = tokenizer, words, tokenizer.has_words
        with torch.no_grad(), evaluating(half):
            ids, indices = tokenizer(["a photo"])
            out = half.read(ids, tokenizer.real(ids), hidden=True)
            if not out.hidden_states:
                raise UsageError(f"text tower {type(half.text).__name__} gives no hidden states; use one that does")
            self.taps = [1 + tap for tap in lv.tap_blocks(len(out.hidden_states) - 1, lv.TEXT_CUTS)]
            found = self.levels(ids, indices).levels if self.has_levels else ()
        self.widths = tuple(level.shape[-1] for level in found)

    @property
    def native(self) -> nn.Module:
        return self._half

    def levels(self, ids: Int[Tensor, "b l"], words: Int[Tensor, "b m"], trimmed: bool = False) -> Features:
        """L1..L4 and the final embedding; padding enters no mean."""
        ids = ids if trimmed else self.trim(ids)
        real = self.tokenizer.real(ids)
        out = self._half.read(ids, real, hidden=True)
        groups = [out.hidden_states[tap] for tap in self.taps]
        # The output is after the last norm; AltCLIP's is in another width than its blocks.
        read = out.last_hidden_state if out.last_hidden_state.shape == groups[-1].shape else groups[-1]
        pooled = read[torch.arange(len(ids), device=ids.device), self._places(ids)]
        return text_features(groups, pooled, self._half.embedding(out), words[:, : ids.shape[1]], real, self.words)

    def encode(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        """The final embedding of ids of the whole context or of trimmed ones."""
        return self._half.embedding(self._half.read(ids, self.tokenizer.real(ids)))

    def trim(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b m"]:
        """Without the columns of padding behind the longest text, which masked attention never reads."""
        if not self._half.masked:
            return ids
        longest = _length(self.tokenizer.real(ids))
        return ids[:, : min(-(-longest // STEP) * STEP, ids.shape[1])]

    def _places(self, ids: Tensor) -> Tensor:
        """Position of the token that the model pools."""
        if self._half.position == "end":
            return (ids == self.tokenizer.end).int().argmax(1)
        return torch.full_like(ids[:, 0], 0 if self._half.position == "first" else ids.shape[1] - 1)


def _length(real: Bool[Tensor, "b l"]) -> int:
    """Columns up to the last one with a real token; at least one."""
    return max(1, int((real.any(0) * torch.arange(1, real.shape[1] + 1, device=real.device)).max()))


def hf_text(text: nn.Module, tokenizer: Tokenizer, words: int) -> HfText | None:
    """The adapter of a TextHalf, None for any other text tower."""
    return HfText(text, tokenizer, words) if isinstance(text, TextHalf) else None


TEXT_TOWERS = {"hf": hf_text}
