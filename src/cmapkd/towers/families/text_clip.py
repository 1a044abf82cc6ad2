"""ClipText: the text transformer of an open_clip CLIP or CustomTextCLIP as a TextTower."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import Features
from cmapkd.pyramid import levels as lv
from cmapkd.towers.evaluating import evaluating
from cmapkd.towers.families.text_levels import text_features
from cmapkd.towers.families.trimmed import can_trim, trimmed_length, with_context
from cmapkd.towers.tokens.tokenizer import Tokenizer


def text_part(clip: Any) -> nn.Module:
    """The module that holds the text tower: its `text`, or the model itself in a CLIP without such a part."""
    return clip if hasattr(clip, "token_embedding") else clip.text


def has_blocks(text: nn.Module) -> bool:
    """Whether a text part is an open_clip transformer, whose intermediate blocks can be read."""
    return hasattr(getattr(text, "transformer", None), "resblocks")


class ClipText:
    """L1 words, L2 phrases, L3 the sentence, L4 the vector that the tower pools, from three groups of blocks.

    The pooled vector is that of the end token (CLIP), of the last position (SigLIP, CLIPA) or of the class token behind
    the text (CoCa). taps: index of the last block of each group; trims: whether padding is left out of the computation.
    """

    def __init__(self, clip: nn.Module, tokenizer: Tokenizer, words: int) -> None:
        self._clip: Any = clip
        self._text: Any = text_part(clip)
        self.tokenizer, self.words, self.has_levels = tokenizer, words, tokenizer.has_words
        self._pool = getattr(self._text, "text_pool_type", None) or self._text.pool_type
        if self._pool == "none" and getattr(self._text, "cls_emb", None) is None:
            raise UsageError(
                "text tower: pool_type 'none' gives an embedding of each token and none of the text; use first, last, argmax "
                "or eos"
            )
        self.taps = lv.tap_blocks(len(self._text.transformer.resblocks), lv.TEXT_CUTS)
        self.trims = can_trim(self._text, tokenizer.end, tokenizer.pad)
        self.widths = self._measured() if self.has_levels else ()

    @property
    def native(self) -> nn.Module:
        return self._text

    def levels(self, ids: Int[Tensor, "b l"], words: Int[Tensor, "b m"], trimmed: bool = False) -> Features:
        """L1..L4 and the final embedding; padding enters no mean."""
        ids = ids if trimmed else self.trim(ids)
        words = words[:, : ids.shape[1]]
        out = self._run(ids, partial(self._intermediates, ids))
        taken = sorted(set(self.taps))  # of fewer than three blocks, one belongs to more than one group
        groups = [out["text_intermediates"][taken.index(tap)] for tap in self.taps]
        real = self.tokenizer.real(ids)
        return text_features(groups, self._pooled(out, ids), out["text_features"], words, real, self.words)

    def encode(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        """The final embedding of ids of the whole context or of trimmed ones."""
        return self._run(ids, partial(self._clip.encode_text, ids))

    def trim(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b m"]:
        return ids[:, : trimmed_length(ids, self.tokenizer.end)] if self.trims else ids

    def _run(self, ids: Tensor, call: partial[Any]) -> Any:
        return with_context(self._text, ids.shape[1], call) if self.trims else call()

    def _intermediates(self, ids: Tensor) -> dict[str, Any]:
        if self._text is self._clip:
            return self._clip.forward_intermediates(text=ids, text_indices=self.taps, normalize=False)
        return self._text.forward_intermediates(
            ids, indices=self.taps, output_fmt="NLC", output_extra_tokens=self._text.cls_emb is not None
        )

    def _pooled(self, out: dict[str, Any], ids: Tensor) -> Float[Tensor, "b d"]:
        """The vector that the tower pools, as it leaves the last block."""
        from open_clip.transformer import text_global_pool

        if "text_intermediates_suffix" in out:
            return out["text_intermediates_suffix"][-1][:, 0]
        end = getattr(self._text, "text_eos_id", None) if self._text is self._clip else self._text.eos_id
        return text_global_pool(out["text_intermediates"][-1], ids, self._pool, end)

    @torch.no_grad()
    def _measured(self) -> tuple[int, ...]:
        """Widths of L1..L4, from one short text in eval mode."""
        with evaluating(self._clip):
            found = self.levels(*self.tokenizer(["a photo"]))
        return tuple(level.shape[-1] for level in found.levels)


def clip_text(clip: nn.Module, tokenizer: Tokenizer, words: int) -> ClipText | None:
    """The adapter of an open_clip text transformer, None for any other text tower."""
    return ClipText(clip, tokenizer, words) if has_blocks(text_part(clip)) else None


TEXT_TOWERS = {"clip": clip_text}
