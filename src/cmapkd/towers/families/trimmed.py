"""Trimmed padding: a batch of texts is computed only up to its longest text.

In a causal text tower no token attends to what comes after it, so the padding after the end token changes nothing that
is read. Captions have some 15 tokens of a context of 77; the padding is most of what the tower would compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.func import functional_call

STEP = 8  # lengths are rounded up to a multiple, so that kernels and allocators see few shapes
Out = TypeVar("Out")


def can_trim(text: Any, end: int = 1, pad: int = 0) -> bool:
    """Whether an open_clip text tower is causal, pools at the end token, and appends no class token.

    end, pad: ids of the tokenizer's end token and padding. A tower that pools at the largest id has to find the end there.
    """
    pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
    causal = getattr(text, "attn_mask", None) is not None
    appends_class_token = getattr(text, "cls_emb", None) is not None
    pools_end = (pool == "argmax" and pad < end) or (pool == "eos" and end >= 0)
    return causal and pools_end and not appends_class_token


def trimmed_length(ids: Tensor, end: int) -> int:
    """Number of columns of ids [B, L] up to the last end token, rounded up to STEP."""
    longest = int((ids == end).int().argmax(1).max()) + 1
    return min(-(-longest // STEP) * STEP, ids.shape[1])


def with_context(text: Any, length: int, call: Callable[[], Out]) -> Out:
    """call() while `text` has a context of `length`: its first positional embeddings and the corner of its mask."""
    if length == len(text.positional_embedding):
        return call()
    cut = {"positional_embedding": text.positional_embedding[:length], "attn_mask": text.attn_mask[:length, :length]}
    return functional_call(_Call(text, call), {f"text.{name}": tensor for name, tensor in cut.items()}, ())


class _Call(nn.Module):
    """A module whose forward is `call`, so that functional_call can replace tensors of `text` during it."""

    def __init__(self, text: nn.Module, call: Callable[[], Any]) -> None:
        super().__init__()
        self.text, self.call = text, call

    def forward(self) -> Any:
        return self.call()
