"""A toy model of each family of open_clip: random weights, as an open_clip folder with its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from open_clip.coca_model import CoCa
from safetensors.torch import load_file, save_file

import toy
from cmapkd.export.open_clip_folder import CONFIG, WEIGHTS, save_open_clip
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.tokens import tokenizer as tok
from families import trunks

CONTEXT = 24
VIT = {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": CONTEXT, "width": 32, "heads": 2, "layers": 4}
APART = {"custom_text": True}
BOTH_WAYS = {"no_causal_mask": True, "pool_type": "last"}
SIGLIP_TEXT = {**BOTH_WAYS, "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}


def written(
    folder: Path, vision: dict, text: dict | None = None, top: dict | None = None, encoder: dict | None = None
) -> str:
    """The name of a model that is written to `folder`: its config from parts, seeded weights and a trained tokenizer.

    encoder: config of a Hugging Face text encoder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    words = tok.train(toy.CAPTIONS, 128, CONTEXT, folder.with_name(folder.name + "-tok"))
    text = {**TEXT, "vocab_size": tok.vocabulary(words.folder), **(text or {})}
    if encoder is not None:
        place = folder.with_name(folder.name + "-text")
        place.mkdir(exist_ok=True)
        special = {"bos_token_id": words.start, "eos_token_id": words.end, "pad_token_id": words.pad}
        (place / "config.json").write_text(json.dumps({"vocab_size": text["vocab_size"], **special, **encoder}))
        text = {"hf_model_name": str(place), "hf_proj_type": "linear", "context_length": CONTEXT, **text}
        text = {key: value for key, value in text.items() if key not in ("width", "heads", "layers")}
    cfg: dict[str, Any] = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **(top or {})}
    torch.manual_seed(0)
    clip = build(cfg)
    lively(clip, vision["image_size"])
    image = {"mean": list(toy.MEAN), "std": list(toy.STD)}
    return f"local-dir:{save_open_clip(clip, cfg, image, words.folder, folder, 'toy')}"


def lively(clip: Any, size: int) -> None:
    """Change a fresh model so that inputs differ in its features: no layer scale near 0, batch norms with statistics."""
    with torch.no_grad():
        for name, value in clip.named_parameters():
            if value.ndim and value.abs().max() < 1e-3 and not name.endswith("bias"):
                value.normal_(0, 0.2)
        norms = [layer for layer in clip.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        clip.visual.train()(torch.randn(4, 3, size, size))
        for norm in norms:
            norm.momentum = 0.1
    clip.eval()


def trunk(name: str, size: int = 32, pool: str = "avg", proj: str | None = None) -> dict:
    return {"image_size": size, "timm_model_name": name, "timm_pool": pool, "timm_proj": proj}


def coca(folder: Path) -> str:
    """A whole CoCa, with its text decoder."""
    vision = {**VIT, "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}
    model = written(folder, vision, {"embed_cls": True}, APART)
    config = json.loads((folder / CONFIG).read_text())
    cfg = config["model_cfg"]
    for part in ("vision_cfg", "text_cfg"):
        cfg[part]["output_tokens"] = True
    cfg["multimodal_cfg"] = {**TEXT, "vocab_size": cfg["text_cfg"]["vocab_size"]}
    whole = CoCa(**{key: value for key, value in cfg.items() if key != "custom_text"})
    whole.load_state_dict(load_file(str(folder / WEIGHTS)), strict=False)
    save_file({key: value.contiguous() for key, value in whole.state_dict().items()}, str(folder / WEIGHTS))
    (folder / CONFIG).write_text(json.dumps(config))
    return model


BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
ROBERTA = {**BERT, "model_type": "roberta", "max_position_embeddings": 64, "type_vocab_size": 1}
XLM = {**ROBERTA, "model_type": "xlm-roberta"}
MT5 = {
    "model_type": "mt5",
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 3,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}
M2M = {"model_type": "m2m_100", "d_model": 32, "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 2,
       "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}  # fmt: skip


def encoder(folder: Path, config: dict, pooler: str) -> str:
    return written(folder, VIT, {"hf_pooler_type": pooler}, encoder=config)


FAMILIES: dict[str, Callable[[Path], str]] = {
    "open_clip-vit": partial(written, vision=VIT),
    "open_clip-vit-apart": partial(written, vision={**VIT, "ls_init_value": 0.1}, top=APART),
    "open_clip-clipa": partial(
        written, vision={**VIT, "no_ln_pre": True, "final_ln_after_pool": True, "pool_type": "avg"}, text=BOTH_WAYS
    ),
    "open_clip-rn": partial(written, vision={"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 64}),
    "open_clip-convnext": partial(written, vision=trunk(trunks.CONVNEXT, 64, "", "linear")),
    "open_clip-swin": partial(written, vision=trunk(trunks.SWIN, 64, "", "linear")),
    "open_clip-eva02": partial(written, vision=trunk(trunks.EVA02, pool="token"), top=APART),
    "open_clip-mobileclip": partial(written, vision=trunk(trunks.FASTVIT, 64), text={"no_causal_mask": True}, top=APART),
    "open_clip-siglip": partial(
        written, vision=trunk(trunks.SIGLIP, pool="map", proj="none"), text=SIGLIP_TEXT,
        top={**APART, "embed_dim": 32, "init_logit_bias": -10},
    ),
    "open_clip-pe": partial(written, vision=trunk(trunks.PE, pool="map"), top=APART),
    "open_clip-pe-patches": partial(written, vision=trunk(trunks.PE_PATCHES, pool="map"), top=APART),
    "open_clip-registers": partial(written, vision=trunk(trunks.REGISTERS, pool="avg"), top=APART),
    "open_clip-coca": coca,
    "open_clip-bert": partial(encoder, config=BERT, pooler="cls_pooler"),
    "open_clip-roberta": partial(encoder, config=ROBERTA, pooler="mean_pooler"),
    "open_clip-xlm-roberta": partial(encoder, config=XLM, pooler="cls_last_hidden_state_pooler"),
    "open_clip-mt5": partial(encoder, config=MT5, pooler="mean_pooler"),
    "open_clip-m2m": partial(encoder, config=M2M, pooler="cls_pooler"),
}  # fmt: skip
