"""A Hugging Face CLIP folder (config.json, model.safetensors) as an open_clip config and state dict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.core.errors import UsageError
from cmapkd.towers.sources.weights import read_config, read_state

OPEN_CLIP_OF_HF = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def from_hugging_face(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], list[float] | None, list[float] | None]:
    """(open_clip model_cfg, state dict, mean, std) of a CLIPModel folder. Raises UsageError for other model types."""
    config = read_config(folder / "config.json")
    if config.get("model_type") != "clip":
        raise UsageError(f"{folder}: model_type is '{config.get('model_type')}', but only 'clip' folders can be read")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UsageError(f"{folder}: model.safetensors not found; pickled weights are not read, convert them first")
    preprocessor = folder / "preprocessor_config.json"
    image = read_config(preprocessor) if preprocessor.is_file() else {}
    return _model_cfg(config), _state(read_state(weights), weights), image.get("image_mean"), image.get("image_std")


def _model_cfg(config: dict[str, Any]) -> dict[str, Any]:
    """The open_clip model config of a Hugging Face CLIPConfig."""
    # A Hugging Face config omits values that equal the library's defaults, so the defaults are repeated here.
    vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 32,
              "image_size": 224, "intermediate_size": 3072, "hidden_act": "quick_gelu"} | config.get("vision_config", {})  # fmt: skip
    text = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "vocab_size": 49408,
            "max_position_embeddings": 77, "intermediate_size": 2048, "hidden_act": "quick_gelu"} | config.get("text_config", {})  # fmt: skip
    return {
        "embed_dim": config.get("projection_dim", 512),
        "quick_gelu": vision["hidden_act"] == "quick_gelu",
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
            "patch_size": vision["patch_size"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        },
    }


def _state(hf: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The open_clip state dict. Raises UsageError with the name of a missing tensor."""
    try:
        return _renamed(hf)
    except (KeyError, ValueError) as error:
        raise UsageError(f"weights {where}: not of a CLIPModel (no tensor {error}); save the whole CLIPModel") from None


def _renamed(hf: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor under its open_clip name; queries, keys and values joined in one input map."""
    out = {
        "logit_scale": hf["logit_scale"],
        "visual.proj": hf["visual_projection.weight"].T,
        "text_projection": hf["text_projection.weight"].T,
        "visual.class_embedding": hf["vision_model.embeddings.class_embedding"].flatten(),
        "visual.conv1.weight": hf["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": hf["vision_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": hf["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": hf["text_model.embeddings.position_embedding.weight"],
    }
    for ours, theirs in (
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
        ("ln_final", "text_model.final_layer_norm"),
    ):
        for part in ("weight", "bias"):
            out[f"{ours}.{part}"] = hf[f"{theirs}.{part}"]
    for ours, theirs in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
        out |= renamed_blocks(hf, f"{theirs}.encoder.layers", ours)
    return {key: value.contiguous() for key, value in out.items()}


def renamed_blocks(hf: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    """The blocks `theirs.N` of a state dict of transformers under open_clip's names, `ours.resblocks.N`."""
    out: dict[str, Tensor] = {}
    place = len(theirs.split("."))
    depth = 1 + max(int(key.split(".")[place]) for key in hf if key.startswith(f"{theirs}."))
    for block in range(depth):
        source, target = f"{theirs}.{block}", f"{ours}.resblocks.{block}"
        for part in ("weight", "bias"):
            qkv = [hf[f"{source}.self_attn.{name}_proj.{part}"] for name in "qkv"]
            out[f"{target}.attn.in_proj_{part}"] = torch.cat(qkv)
            for name, mapped in OPEN_CLIP_OF_HF.items():
                out[f"{target}.{mapped}.{part}"] = hf[f"{source}.{name}.{part}"]
    return out
