"""Read a batch of texts only as far as the longest of them goes.

A causal text tower's tokens see nothing behind them, so the padding behind the end token changes no feature that anyone
reads; captions have some 15 tokens of a context of 77, and the rest is most of what the tower computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.func import functional_call

STEP = 8  # lengths are rounded up, so that kernels and allocators meet few shapes
Out = TypeVar("Out")


def can_be_brief(text: Any) -> bool:
    """Whether an open_clip text tower is causal and pools at the end token, and nothing stands behind that."""
    pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
    causal, behind = getattr(text, "attn_mask", None) is not None, getattr(text, "cls_emb", None) is not None
    return causal and pool in ("argmax", "eos") and not behind


def length_of(ids: Tensor, end: int) -> int:
    """Columns of ids [B, L] up to the last end token, rounded up to STEP."""
    longest = int((ids == end).int().argmax(1).max()) + 1
    return min(-(-longest // STEP) * STEP, ids.shape[1])


def briefly(text: Any, length: int, call: Callable[[], Out]) -> Out:
    """call(), in which `text` has a context of `length`: its first positions and the corner of its mask."""
    if length == len(text.positional_embedding):
        return call()
    cut = {"positional_embedding": text.positional_embedding[:length], "attn_mask": text.attn_mask[:length, :length]}
    return functional_call(_Call(text, call), {f"text.{name}": tensor for name, tensor in cut.items()}, ())


class _Call(nn.Module):
    """A module whose forward is `call`, so that functional_call can lend `text` other tensors meanwhile."""

    def __init__(self, text: nn.Module, call: Callable[[], Any]) -> None:
        super().__init__()
        self.text, self.call = text, call

    def forward(self) -> Any:
        return self.call()
