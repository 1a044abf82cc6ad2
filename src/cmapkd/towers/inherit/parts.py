"""BlockParts: one view of a transformer block for all libraries, whose tensors are those of the block itself.

A block class is one small function here that returns its parts, or None for a block of another class; all mathematics of
inheritance works on the parts. Blocks with more inside (rotary positions, norms of queries) are noticed in eligible.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Affine:
    """A linear map: weight [out, in] and bias [out], or None without one; views of a module's parameters."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class BlockParts:
    """Attention and MLP of one transformer block.

    first, second: norms; post False: x + attend(first(x)), then x + mlp(second(x)), as in a ViT or CLIP; post True:
    first(x + attend(x)), then second(x + mlp(x)), as in BERT. qkv: maps to queries, keys and values; out, fc, project: the
    output map of the attention and the two maps of the MLP; scales: of the two outputs, channel by channel (layer scale);
    own: the block's own attention with its output map, where its kernel is to be kept.
    """

    first: nn.LayerNorm
    second: nn.LayerNorm
    qkv: tuple[Affine, ...]
    heads: int
    out: nn.Linear
    fc: nn.Linear
    act: Callable[[Tensor], Tensor]
    project: nn.Linear
    scales: tuple[Tensor | None, Tensor | None] = (None, None)
    post: bool = False
    own: Attend | None = None

    @property
    def width(self) -> int:
        """Channels of one head."""
        return len(self.qkv[0].weight) // self.heads

    def joined(self) -> Affine:
        """Queries, keys and values as one map [3·h·d, in]; a bias of zeros where the block has none."""
        biases = [torch.zeros_like(one.weight[:, 0]) if one.bias is None else one.bias for one in self.qkv]
        return Affine(torch.cat([one.weight for one in self.qkv]), torch.cat(biases))

    def writes(self, output: int) -> Tensor:
        """The output map's weight [D, in] with its scale: 0 of the attention, 1 of the MLP."""
        weight, scale = (self.out, self.project)[output].weight, self.scales[output]
        return weight if scale is None else weight * scale[:, None]


def parts_of(blocks: Iterable[Any]) -> list[BlockParts] | None:
    """The parts of each block, None where a block's class is unknown."""
    found = [next((one for read in READERS if (one := read(block)) is not None), None) for block in blocks]
    return None if not found or None in found else found  # type: ignore[return-value]


def _open_clip(block: Any) -> BlockParts | None:
    attention: Any = getattr(block, "attn", None)
    if not (hasattr(block, "ln_1") and isinstance(attention, nn.MultiheadAttention) and attention.batch_first):
        return None
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if weight is None or bias is None or hasattr(block, "ln_1_kv"):
        return None
    qkv = [Affine(*pair) for pair in zip(weight.detach().chunk(3), bias.detach().chunk(3), strict=True)]

    def own(x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and mask.ndim == 4:  # [n, 1, 1, L] to the form of nn.MultiheadAttention
            mask = torch.zeros(mask.shape, device=x.device).masked_fill(~mask, -torch.inf)
            mask = mask.expand(-1, attention.num_heads, x.shape[1], -1).flatten(0, 1)
        return block.attention(x, attn_mask=mask)

    mlp, scales = block.mlp, (_scale(block.ls_1), _scale(block.ls_2))
    return BlockParts(block.ln_1, block.ln_2, tuple(qkv), attention.num_heads, attention.out_proj,
                      mlp.c_fc, mlp.gelu, mlp.c_proj, scales, own=own)  # fmt: skip


def _timm(block: Any) -> BlockParts | None:
    attention: Any = getattr(block, "attn", None)
    if not (hasattr(block, "norm1") and hasattr(attention, "qkv") and hasattr(getattr(block, "mlp", None), "fc1")):
        return None
    if not isinstance(getattr(attention, "proj", None), nn.Linear) or not isinstance(attention.qkv, nn.Linear):
        return None
    biases = (None,) * 3 if attention.qkv.bias is None else attention.qkv.bias.detach().chunk(3)
    qkv = [Affine(*pair) for pair in zip(attention.qkv.weight.detach().chunk(3), biases, strict=True)]
    mlp, scales = block.mlp, (_scale(getattr(block, "ls1", None)), _scale(getattr(block, "ls2", None)))
    return BlockParts(block.norm1, block.norm2, tuple(qkv), attention.num_heads, attention.proj, mlp.fc1, mlp.act,
                      mlp.fc2, scales)  # fmt: skip


def _encoder_layer(block: Any) -> BlockParts | None:
    """Of transformers' CLIP and SigLIP."""
    attention: Any = getattr(block, "self_attn", None)
    if not all(hasattr(attention, f"{name}_proj") for name in ("q", "k", "v", "out")) or not hasattr(
        block, "layer_norm1"
    ):
        return None
    qkv = tuple(_affine(getattr(attention, f"{name}_proj")) for name in "qkv")
    mlp = block.mlp
    return BlockParts(block.layer_norm1, block.layer_norm2, qkv, attention.num_heads, attention.out_proj,
                      mlp.fc1, mlp.activation_fn, mlp.fc2)  # type: ignore[arg-type]  # fmt: skip


def _bert(block: Any) -> BlockParts | None:
    """Of transformers' BERT and RoBERTa, and of models built from their layers."""
    attention: Any = getattr(block, "attention", None)
    inner: Any = getattr(attention, "self", None)
    if not all(hasattr(inner, name) for name in ("query", "key", "value")) or not hasattr(block, "intermediate"):
        return None
    if not isinstance(getattr(attention.output, "LayerNorm", None), nn.LayerNorm):
        return None
    qkv = tuple(_affine(getattr(inner, name)) for name in ("query", "key", "value"))
    return BlockParts(attention.output.LayerNorm, block.output.LayerNorm, qkv, inner.num_attention_heads,
                      attention.output.dense, block.intermediate.dense, block.intermediate.intermediate_act_fn,
                      block.output.dense, post=True)  # type: ignore[arg-type]  # fmt: skip


def _affine(linear: nn.Linear) -> Affine:
    return Affine(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())


def _scale(module: Any) -> Tensor | None:
    """A layer scale's factors [D], None for a block without."""
    gamma = getattr(module, "gamma", None)
    return gamma.detach() if isinstance(gamma, Tensor) else None


READERS = (_open_clip, _timm, _encoder_layer, _bert)
