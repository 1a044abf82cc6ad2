"""Tiny trunks of the kinds of timm that open_clip's models have, under names that timm knows while tests run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models import convnext, eva, fastvit, hiera, register_model, swin_transformer, vision_transformer
from torch import nn


def registered(name: str, kind: Callable[..., nn.Module], **sizes: Any) -> str:
    """`name`, after timm has learnt to build `kind` with `sizes` under it."""

    def build(pretrained: bool = False, **over: Any) -> nn.Module:
        known = {key: value for key, value in over.items() if key in ("num_classes", "global_pool", "drop_path_rate")}
        model: Any = kind(**sizes | known)
        model.default_cfg = model.pretrained_cfg = {"pool_size": (1, 1)} if "img_size" not in sizes else {}
        return model

    build.__name__ = name
    return register_model(build).__name__


BLOCKS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
ROTARY = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}
EVA02 = registered(
    "toy_eva02", eva.Eva, **BLOCKS, **ROTARY, mlp_ratio=2, swiglu_mlp=True, scale_mlp=True, qkv_fused=False
)
PE = registered(
    "toy_pe", eva.Eva, **BLOCKS, **ROTARY, attn_type="rope", use_pre_transformer_norm=True, attn_pool_num_heads=2
)
PE_PATCHES = registered(
    "toy_pe_patches", eva.Eva, **BLOCKS, **ROTARY, class_token=False, no_embed_class=True, attn_pool_num_heads=2
)
SIGLIP = registered(
    "toy_siglip",
    vision_transformer.VisionTransformer,
    **BLOCKS,
    class_token=False,
    init_values=None,
    norm_layer=partial(nn.LayerNorm, eps=1e-6),
)
REGISTERS = registered(
    "toy_registers",
    vision_transformer.VisionTransformer,
    **BLOCKS,
    class_token=False,
    reg_tokens=2,
    no_embed_class=True,
)
CONVNEXT = registered("toy_convnext", convnext.ConvNeXt, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
FASTVIT = registered(
    "toy_fastvit", fastvit.FastVit, layers=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64), mlp_ratios=(1, 1, 1, 1),
    token_mixers=("repmixer", "repmixer", "repmixer", "attention"), se_downsamples=(False, False, True, True), lkc_use_act=True,
)  # fmt: skip
SWIN = registered(
    "toy_swin",
    swin_transformer.SwinTransformer,
    img_size=64,
    patch_size=2,
    embed_dim=8,
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 2, 2),
    window_size=4,
)
HIERA = registered("toy_hiera", hiera.Hiera, img_size=(64, 64), embed_dim=8, num_heads=1, stages=(1, 1, 1, 1))
