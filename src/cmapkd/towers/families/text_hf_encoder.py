"""HfEncoderText: the Hugging Face text encoder of an open_clip model (BERT, RoBERTa, XLM-R, mT5, M2M-100) as a TextTower."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import Features
from cmapkd.pyramid import levels as lv
from cmapkd.towers.evaluating import evaluating
from cmapkd.towers.families.text_levels import text_features
from cmapkd.towers.families.trimmed import STEP
from cmapkd.towers.tokens.tokenizer import Tokenizer


class HfEncoderText:
    """L1 words, L2 phrases, L3 the sentence from three groups of blocks; L4 is the pooled vector before its projection.

    taps: index of the hidden state after each group, the embeddings being the first. The encoder attends to no padding.
    """

    def __init__(self, clip: nn.Module, tokenizer: Tokenizer, words: int) -> None:
        self._clip: Any = clip
        self._text: Any = clip.text
        self.tokenizer, self.words, self.has_levels = tokenizer, words, tokenizer.has_words
        _refuse_vocabulary(self._text, tokenizer)
        _keep_every_block(self._text)
        self.taps: list[int] = []
        self.widths = self._measured() if self.has_levels else ()

    @property
    def native(self) -> nn.Module:
        return self._text

    def levels(self, ids: Int[Tensor, "b l"], words: Int[Tensor, "b m"], trimmed: bool = False) -> Features:
        """L1..L4 and the final embedding; padding enters no mean."""
        ids = ids if trimmed else self.trim(ids)
        states, pooled, final = self._read(ids)
        groups = [states[tap] for tap in self.taps]
        return text_features(groups, pooled, final, words[:, : ids.shape[1]], self.tokenizer.real(ids), self.words)

    def encode(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        """The final embedding of ids of the whole context or of trimmed ones."""
        return self._clip.encode_text(ids)

    def trim(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b m"]:
        """Without the columns that are padding in every text, which masked attention never reads."""
        seen = (ids != self._text.config.pad_token_id).any(0)
        longest = int((seen * torch.arange(1, len(seen) + 1, device=ids.device)).max())
        return ids[:, : min(max(-(-longest // STEP), 1) * STEP, ids.shape[1])]

    def _read(self, ids: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """(hidden states, pooled vector, final embedding), by the steps of the module's own forward."""
        mask = (ids != self._text.config.pad_token_id).long()
        out = self._text.transformer(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        pooled = self._text.pooler(out, mask)
        return out.hidden_states, pooled, self._text.proj(pooled)

    @torch.no_grad()
    def _measured(self) -> tuple[int, ...]:
        """Widths of L1..L4, from one short text in eval mode; sets the taps."""
        with evaluating(self._clip):
            ids, words = self.tokenizer(["a photo"])
            depth = len(self._read(self.trim(ids))[0]) - 1
            self.taps = [1 + tap for tap in lv.tap_blocks(depth, lv.TEXT_CUTS)]
            found = self.levels(ids, words)
        return tuple(level.shape[-1] for level in found.levels)


def _keep_every_block(text: Any) -> None:
    """Switch LayerDrop off, which leaves out blocks at random in training: a level is the output of a certain block."""
    for module in text.modules():
        if getattr(module, "layerdrop", 0):
            module.layerdrop = 0.0


def _refuse_vocabulary(text: Any, tokenizer: Tokenizer) -> None:
    """Raise UsageError where the tokenizer and the encoder's config disagree on padding, or the pooler cannot run."""
    kind, pad = text.config.model_type, text.config.pad_token_id
    if pad != tokenizer.pad:
        raise UsageError(
            f"text tower {kind}: its config has pad_token_id {pad}, but the tokenizer pads with {tokenizer.pad}; give the "
            "tokenizer that the model was trained with"
        )
    if type(text.pooler).__name__ == "MaxPooler":
        raise UsageError(
            f"text tower {kind}: open_clip's max_pooler cannot run with its own mask; use hf_pooler_type mean_pooler, "
            "cls_pooler or cls_last_hidden_state_pooler"
        )


def hf_encoder_text(clip: nn.Module, tokenizer: Tokenizer, words: int) -> HfEncoderText | None:
    """The adapter of open_clip's HFTextEncoder, None for any other text tower."""
    from open_clip.hf_model import HFTextEncoder

    return HfEncoderText(clip, tokenizer, words) if isinstance(getattr(clip, "text", None), HFTextEncoder) else None


TEXT_TOWERS = {"hf_encoder": hf_encoder_text}
