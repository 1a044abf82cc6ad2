"""TextParts: one view of a text transformer for all libraries: embeddings, blocks, attention, pooling and head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.towers.families.text_clip import has_blocks
from cmapkd.towers.inherit.head import Head, head_of
from cmapkd.towers.inherit.parts import BlockParts, parts_of
from cmapkd.towers.protocols import TextTower

Pool = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TextParts:
    """Views of a text tower's parameters.

    words, positions, types: embeddings, the positions from the first one that a text uses; first: the norm behind them, as
    in BERT; modules, blocks: each block and its parts; last: the norm before the pooling, None where blocks end with
    norms; attention: `causal`, `masked` (padding is not read) or `whole` (padding is read like words); real: bool [n, L]
    of ids, tokens that are no padding; pool: (tokens [n, L, k], real, ids) to [n, k]; head: what follows.
    """

    words: nn.Embedding
    positions: Tensor
    types: Tensor | None
    first: nn.LayerNorm | None
    modules: list[nn.Module]
    blocks: list[BlockParts]
    last: nn.LayerNorm | None
    attention: str
    real: Callable[[Tensor], Tensor]
    pool: Pool
    head: Head

    @property
    def width(self) -> int:
        return self.words.embedding_dim

    def used(self, attention: str, real: Callable[[Tensor], Tensor], pool: Pool, head: Head) -> TextParts:
        """The same embeddings and blocks with what the model around them adds."""
        return replace(self, attention=attention, real=real, pool=pool, head=head)

    def mask(self, real: Tensor) -> Tensor | None:
        """The attention's mask for texts of these tokens, as `attend` has it."""
        if self.attention == "causal":
            length = real.shape[1]
            return torch.full((length, length), -torch.inf, device=real.device).triu_(1)
        return real[:, None, None] if self.attention == "masked" else None


def text_parts(tower: TextTower) -> TextParts | None:
    """The parts of a text tower, None for a tower of an unknown kind."""
    native: Any = tower.native
    if has_blocks(native):
        return _open_clip(native, tower.tokenizer.end)
    if hasattr(native, "transformer") and hasattr(native, "pooler"):
        return _open_clip_hugging_face(native)
    return _hugging_face(native, tower) if hasattr(native, "masked") and hasattr(native, "text") else None


def _open_clip(text: Any, end: int) -> TextParts | None:
    pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
    causal = getattr(text, "attn_mask", None) is not None
    blocks = parts_of(text.transformer.resblocks)
    pools = {"argmax": _at_end(end), "eos": _at_end(end), "first": _first} | ({} if causal else {"last": _last})
    if blocks is None or pool not in pools or getattr(text, "cls_emb", None) is not None:
        return None
    masked = getattr(text, "use_pad_mask", False)
    projection = text.text_projection
    if isinstance(projection, nn.Linear):
        head = head_of([projection])
    else:
        head = Head(weight=None if projection is None else projection.detach())
    assert head is not None
    real = _until(end) if causal else lambda ids: ids != getattr(text, "pad_id", 0)
    attention = "causal" if causal else "masked" if masked else "whole"
    return TextParts(text.token_embedding, text.positional_embedding.detach(), None, None, list(text.transformer.resblocks),
                     blocks, text.ln_final, attention, real, pools[pool], head)  # fmt: skip


def _open_clip_hugging_face(text: Any) -> TextParts | None:
    """Of a CustomTextCLIP whose text tower is a model of transformers: it masks padding by its id."""
    core, kind = transformers_parts(text.transformer), type(text.pooler).__name__
    own: Any = getattr(text.transformer, "pooler", None)
    steps: list[nn.Module | None] = list(text.proj) if isinstance(text.proj, nn.Sequential) else [text.proj]
    if kind == "ClsPooler" and text.pooler.use_pooler_output and own is not None:
        steps = [own.dense, own.activation, *steps]
    pools: dict[str, Pool] = {"MeanPooler": mean_pool, "ClsPooler": _first, "ClsLastHiddenStatePooler": _first}
    head = head_of(steps)
    if core is None or kind not in pools or head is None:
        return None
    pad = text.config.pad_token_id
    return core.used("masked", lambda ids: ids != pad, pools[kind], head)


def _hugging_face(half: Any, tower: TextTower) -> TextParts | None:
    """Of a model of transformers with a text half (families/text_hf.py)."""
    core, end = transformers_parts(half.text), tower.tokenizer.end
    own: Any = getattr(half.text, "pooler", None)
    steps = [half.projection]
    if half.pooled == "pooler" and half.position == "first":
        if not hasattr(own, "dense"):
            return None
        steps = [own.dense, own.activation, half.projection]
    elif half.pooled == "pooler":
        steps = [getattr(half.text, "head", None), half.projection]
    head = head_of(steps)
    if core is None or head is None:
        return None
    causal = half.position == "end"
    attention = "causal" if causal else "masked" if half.masked else "whole"
    pool = _first if half.pooled == "first" else {"first": _first, "end": _at_end(end), "last": _last}[half.position]
    return core.used(attention, _until(end) if causal else tower.tokenizer.real, pool, head)


def transformers_parts(model: Any) -> TextParts | None:
    """The embeddings and blocks of a model of transformers in the manner of BERT or of CLIP."""
    into: Any = getattr(model, "embeddings", None)
    encoder: Any = getattr(model, "encoder", None)
    layers = list(getattr(encoder, "layer", None) or getattr(encoder, "layers", None) or [])
    blocks = parts_of(layers)
    if blocks is None:
        return None
    rest = ("whole", torch.ones_like, _first, Head())
    if isinstance(getattr(into, "word_embeddings", None), nn.Embedding) and hasattr(into, "position_embeddings"):
        # RoBERTa numbers the positions of a text from its padding's id + 1 on.
        offset = into.padding_idx + 1 if hasattr(into, "create_position_ids_from_input_ids") else 0
        types = getattr(into, "token_type_embeddings", None)
        return TextParts(into.word_embeddings, into.position_embeddings.weight.detach()[offset:],
                         None if types is None else types.weight.detach(), into.LayerNorm, layers, blocks, None, *rest)  # fmt: skip
    if isinstance(getattr(into, "token_embedding", None), nn.Embedding) and hasattr(model, "final_layer_norm"):
        return TextParts(into.token_embedding, into.position_embedding.weight.detach(), None, None, layers, blocks,
                         model.final_layer_norm, *rest)  # fmt: skip
    return None


def _until(end: int) -> Callable[[Tensor], Tensor]:
    """Tokens up to the first end token."""
    return lambda ids: torch.arange(ids.shape[1], device=ids.device)[None] <= _place(ids, end)[:, None]


def _at_end(end: int) -> Pool:
    return lambda tokens, _, ids: tokens[torch.arange(len(tokens), device=ids.device), _place(ids, end)]


def _place(ids: Tensor, end: int) -> Tensor:
    return (ids == end).int().argmax(1)


def _first(tokens: Tensor, real: Tensor, ids: Tensor) -> Tensor:
    return tokens[:, 0]


def _last(tokens: Tensor, real: Tensor, ids: Tensor) -> Tensor:
    return tokens[:, -1]


def mean_pool(tokens: Tensor, real: Tensor, ids: Tensor) -> Tensor:
    """The mean of the real tokens."""
    return (tokens * real[..., None]).sum(1) / real.sum(1, keepdim=True)
