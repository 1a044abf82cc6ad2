"""Models of open_clip: architectures by name, with a file of weights or at random, and folders with open_clip_config.json."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.adapt import adapt
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.named import architecture_config, split
from cmapkd.towers.sources.weights import is_openai, load_strict, read_config, read_state
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.towers.tokens.chosen import architecture_tokenizer, configured_tokenizer


def named_model(
    config: TowerConfig,
    captions: Iterable[str],
    tokenizer_folder: Path | None,
    teacher: TowerConfig | None,
    words: int,
    changes: Mapping[str, Any] | None = None,
) -> DualEncoder:
    """An architecture by its name, with its file of weights if the config gives one, else randomly initialised.

    changes: keys of its open_clip config that are replaced.
    """
    architecture, weights = split(config)
    model_cfg = architecture_config(architecture) | dict(changes or {})
    own, folder = configured_tokenizer(config, model_cfg, captions, tokenizer_folder, teacher)
    if folder is not None:
        model_cfg["text_cfg"]["vocab_size"] = tok.vocabulary(folder)
        model_cfg["text_cfg"]["hf_tokenizer_name"] = "tokenizer"
    tokenizer = own or architecture_tokenizer(model_cfg, architecture)
    state = None if weights is None else read_state(weights)
    if state is not None and is_openai(weights, state):
        model_cfg["quick_gelu"] = True
    clip = build(model_cfg)
    if state is not None:
        load_strict(clip, state, weights, config.model)
    return adapted(clip, tokenizer, model_cfg, config.model, words)


def folder_model(folder: Path, name: str, words: int) -> DualEncoder:
    """The model of a folder with open_clip_config.json."""
    config_path = folder / "open_clip_config.json"
    whole = read_config(config_path)
    if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(whole.get("model_cfg", {})):
        raise UsageError(f"model {name}: {config_path} has no model_cfg of a CLIP; it is not open_clip's")
    model_cfg, preprocess = whole["model_cfg"], whole.get("preprocess_cfg", {})
    weights = [folder / f"open_clip_{kind}" for kind in ("model.safetensors", "pytorch_model.bin")]
    weights = [path for path in weights if path.is_file()] or sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UsageError(f"model {name}: {folder} holds a config but no open_clip_model.safetensors")
    clip = build(model_cfg)
    load_strict(clip, read_state(weights[0]), weights[0], name)
    if (folder / "tokenizer.json").is_file():
        tokenizer = tok.from_folder(folder, model_cfg["text_cfg"].get("context_length", 77))
    else:
        tokenizer = architecture_tokenizer(model_cfg, name)
    return adapted(clip, tokenizer, model_cfg, name, words, preprocess.get("mean"), preprocess.get("std"))


def build(model_cfg: dict[str, Any]) -> torch.nn.Module:
    """An open_clip CLIP or CustomTextCLIP of this config with random weights; downloads no pretrained weights."""
    from open_clip.model import CLIP, CustomTextCLIP

    cfg = copy.deepcopy(model_cfg)
    if "multimodal_cfg" in cfg:
        raise UsageError("CoCa models have a generative head that distillation does not use; give a CLIP-type model")
    if "timm_model_name" in cfg["vision_cfg"]:
        cfg["vision_cfg"]["timm_model_pretrained"] = False
    custom, hugging_face = cfg.pop("custom_text", False), cfg["text_cfg"].get("hf_model_name")
    if not hugging_face:
        return (CustomTextCLIP if custom else CLIP)(**cfg)
    cfg["text_cfg"]["hf_model_pretrained"] = False
    try:
        return CustomTextCLIP(**cfg)
    except OSError:  # of transformers, which looks for the text model's config
        raise UsageError(
            f"text tower '{hugging_face}' is a Hugging Face model whose config.json is not on this machine and would have "
            "to be downloaded; give text_cfg.hf_model_name a folder that holds it, or use an open_clip text transformer"
        ) from None


def adapted(
    clip: torch.nn.Module,
    tokenizer: tok.Tokenizer,
    model_cfg: dict[str, Any],
    name: str,
    words: int,
    mean: Any = None,
    std: Any = None,
) -> DualEncoder:
    """The model in float32 as a DualEncoder; mean and std are OpenAI's where the folder names none."""
    import open_clip

    size = clip.visual.image_size  # type: ignore[union-attr]
    size = int(size if isinstance(size, int) else size[0])  # type: ignore[index]
    mean, std = tuple(mean or open_clip.OPENAI_DATASET_MEAN), tuple(std or open_clip.OPENAI_DATASET_STD)
    return adapt(clip.float(), tokenizer, size, mean, std, model_cfg, name, words)
