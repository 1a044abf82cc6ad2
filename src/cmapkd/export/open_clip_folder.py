"""Export as a folder that open_clip loads by `local-dir:PATH`: config, weights, tokenizer and model card."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.export.folder import write_folder
from cmapkd.towers.sources.text_config import FOLDER as ENCODER
from cmapkd.towers.sources.text_config import exported_text_config

CONFIG, WEIGHTS, CARD = "open_clip_config.json", "open_clip_model.safetensors", "README.md"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# open_clip reads the tokenizer from the folder itself; this name only has to be non-empty.
TOKENIZER_NAME = "tokenizer"


def save_open_clip(
    model: nn.Module,
    model_cfg: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    tokenizer_files: Path | None,
    folder: Path,
    card: str,
    dtype: torch.dtype = torch.float32,
    replace: bool = False,
) -> Path:
    """Write a model as an open_clip folder, in one rename.

    model: an open_clip CLIP that `model_cfg` describes; preprocess: mean, std and further keys of open_clip's
    PreprocessCfg; tokenizer_files: folder with tokenizer.json and tokenizer_config.json, None for CLIP's own vocabulary.
    dtype: float32 gives bit-identical features; float16 halves the file and keeps vectors and scalars in float32.
    replace: whether an existing folder is replaced.
    A Hugging Face text encoder's config is written beside it as `text/config.json`; open_clip looks for that from the working
    directory, so it opens such a folder as `local-dir:.` from inside it.
    Raises UsageError when the folder exists, the tokenizer is missing, or weights overflow `dtype`.
    """
    if folder.exists() and not replace:
        raise UsageError(f"export {folder}: exists already; give a new folder or remove it first")
    config = {
        "model_cfg": exported_config(model_cfg, tokenizer_files),
        "preprocess_cfg": {
            key: list(value) if isinstance(value, tuple) else value for key, value in preprocess.items()
        },
    }
    weights = save(exported_state(model, dtype), metadata={"format": "pt"})
    files = {CONFIG: fsio.json_bytes(config), WEIGHTS: weights, CARD: card.encode()}
    for file in [] if tokenizer_files is None else [tokenizer_files / name for name in TOKENIZER]:
        if file.is_file():
            files[file.name] = file.read_bytes()
    if config["model_cfg"]["text_cfg"].get("hf_model_name"):
        files[f"{ENCODER}/config.json"] = fsio.json_bytes(exported_text_config(model.text))
    return write_folder(folder, files, replace)


def exported_config(model_cfg: Mapping[str, Any], tokenizer_files: Path | None) -> dict[str, Any]:
    """The model config with the exported tokenizer, and without names of pretrained weights that would be downloaded."""
    config = copy.deepcopy(dict(model_cfg))
    text, vision = config["text_cfg"], config["vision_cfg"]
    if tokenizer_files is not None:
        missing = [name for name in TOKENIZER[:2] if not (tokenizer_files / name).is_file()]
        if missing:
            raise UsageError(f"export: tokenizer folder {tokenizer_files} has no {' and no '.join(missing)}")
        text["hf_tokenizer_name"] = TOKENIZER_NAME
    elif text.get("hf_tokenizer_name"):
        raise UsageError(
            f"export: the model's tokenizer is '{text['hf_tokenizer_name']}', not CLIP's; give the folder with its "
            "tokenizer.json, or the exported model could not read text"
        )
    vision.pop("timm_model_pretrained", None)
    text.pop("hf_model_pretrained", None)
    if text.get("hf_model_name"):
        text["hf_model_name"] = ENCODER
    return config


def exported_state(model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of `model` on the CPU: matrices in `dtype`, vectors and scalars in float32, integers unchanged."""
    state = {}
    for name, value in model.state_dict().items():
        whole = value.detach().cpu()
        if not whole.is_floating_point():
            state[name] = whole.clone()
            continue
        kept = whole.to(dtype if whole.ndim >= 2 else torch.float32)
        if whole.isfinite().all() and not kept.isfinite().all():
            raise UsageError(f"export: {name} holds values beyond {dtype}'s range; export in float32")
        # Copied, because safetensors refuses tensors that share memory.
        state[name] = kept.clone(memory_format=torch.contiguous_format)
    return state
