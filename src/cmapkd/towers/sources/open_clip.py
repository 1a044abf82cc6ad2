"""Models of open_clip: architectures by name, with a file of weights or at random, and folders with open_clip_config.json."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.towers.adapt import adapt
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.named import architecture_config, published_tag, split, square
from cmapkd.towers.sources.published import published_activation, published_pixels
from cmapkd.towers.sources.resolution import at_size, load_at_size
from cmapkd.towers.sources.text_config import encoder_folder
from cmapkd.towers.sources.weights import is_openai, read_config, read_state
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
    (architecture, weights), tag = split(config), published_tag(config)
    whole = architecture_config(architecture) | dict(changes or {})
    model_cfg = at_size(towers_only(whole), config.image_size)
    own, folder = configured_tokenizer(config, model_cfg, captions, tokenizer_folder, teacher)
    other = own  # a tokenizer that the model is fitted to; None where its weights were trained with the one given
    if weights and model_cfg["text_cfg"].get("hf_tokenizer_name"):
        other = None
    if folder is not None and other is not None:
        _fit(model_cfg["text_cfg"], other, tok.vocabulary(folder))
    tokenizer = own or architecture_tokenizer(model_cfg, architecture, download=config.download)
    state = None if weights is None else read_state(weights)
    if weights is not None and state is not None:
        _set_activation(model_cfg, architecture, weights, state, tag)
    clip = build(model_cfg, tokenizer=other)
    load_at_size(clip, None if state is None else towers_state(state), weights, config.model, config.image_size)
    mean, std = published_pixels(architecture, weights, tag)
    return adapted(clip, tokenizer, model_cfg, config.model, words, mean, std)


def _set_activation(
    model_cfg: dict[str, Any], architecture: str, weights: Path, state: dict[str, Tensor], tag: str | None
) -> None:
    """Build with QuickGELU where the weights were trained with it, and say so."""
    if model_cfg.get("quick_gelu"):
        return
    reason = "OpenAI's" if is_openai(weights, state) else published_activation(architecture, weights, tag)
    if reason is not None:
        model_cfg["quick_gelu"] = True
        say(f"{architecture}: built with QuickGELU, which these weights ({reason}) were trained with")


def folder_model(folder: Path, name: str, words: int, image_size: int | None = None) -> DualEncoder:
    """The model of a folder with open_clip_config.json; image_size: side in pixels of its images, None for its own."""
    config_path = folder / "open_clip_config.json"
    whole = read_config(config_path)
    if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(whole.get("model_cfg", {})):
        raise UsageError(f"model {name}: {config_path} has no model_cfg of a CLIP; it is not open_clip's")
    model_cfg = at_size(towers_only(whole["model_cfg"]), image_size)
    preprocess = whole.get("preprocess_cfg", {})
    weights = [folder / f"open_clip_{kind}" for kind in ("model.safetensors", "pytorch_model.bin")]
    weights = [path for path in weights if path.is_file()] or sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UsageError(f"model {name}: {folder} holds a config but no open_clip_model.safetensors")
    clip = build(model_cfg, folder)
    load_at_size(clip, towers_state(read_state(weights[0])), weights[0], name, image_size)
    tokenizer = architecture_tokenizer(model_cfg, name, folder)
    return adapted(clip, tokenizer, model_cfg, name, words, preprocess.get("mean"), preprocess.get("std"))


def _fit(text_cfg: dict[str, Any], tokenizer: tok.Tokenizer, vocabulary: int) -> None:
    """Change a text config to another tokenizer's vocabulary, padding and end token."""
    text_cfg["vocab_size"], text_cfg["hf_tokenizer_name"] = vocabulary, "tokenizer"
    if text_cfg.get("pool_type", "argmax") == "argmax" and tokenizer.end < vocabulary - 1:
        text_cfg["pool_type"] = "eos"  # the end token is not the largest id, which argmax looks for
    if text_cfg.get("pool_type") == "eos":
        text_cfg["eos_id"] = tokenizer.end
    if text_cfg.get("embed_cls"):
        text_cfg["pad_id"] = tokenizer.pad


def towers_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the two towers: those of CoCa's text decoder are left out."""
    return {key: value for key, value in state.items() if not key.startswith("text_decoder.")}


def build(
    model_cfg: dict[str, Any], folder: Path | None = None, tokenizer: tok.Tokenizer | None = None
) -> torch.nn.Module:
    """An open_clip CLIP or CustomTextCLIP of this config with random weights; downloads nothing and runs no code of a folder.

    folder: the model's own, in which a Hugging Face text encoder's config is looked for; tokenizer: one that replaces the
    encoder's own. Raises UsageError for a config that open_clip cannot build.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    cfg = towers_only(model_cfg)
    text, vision = cfg["text_cfg"], cfg["vision_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    custom, encoder = cfg.pop("custom_text", False), text.get("hf_model_name")
    try:
        if not encoder:
            return (CustomTextCLIP if custom else CLIP)(**cfg)
        over = {} if tokenizer is None else {"vocab_size": text["vocab_size"], **_special(tokenizer)}
        with encoder_folder(encoder, folder, over) as place:
            cfg["text_cfg"] = text | {"hf_model_name": place, "hf_model_pretrained": False}
            return CustomTextCLIP(**cfg)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UsageError(
            f"open_clip cannot build this model_cfg ({type(error).__name__}: {reason}); check its keys"
        ) from None


def towers_only(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """A copy of a model config without CoCa's text decoder, which no term of distillation reads, and without outputs of tokens."""
    cfg = copy.deepcopy(model_cfg)
    if cfg.pop("multimodal_cfg", None) is not None:
        cfg["custom_text"] = True
    for part in (cfg["vision_cfg"], cfg["text_cfg"]):
        part.pop("output_tokens", None)
    return cfg


def _special(tokenizer: tok.Tokenizer) -> dict[str, int]:
    """The ids of a tokenizer's special tokens, as a Hugging Face config names them."""
    ids = {"bos_token_id": tokenizer.start, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.pad}
    return {key: value for key, value in ids.items() if value >= 0}


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

    size = square(clip.visual.image_size, name)  # type: ignore[union-attr]
    mean, std = tuple(mean or open_clip.OPENAI_DATASET_MEAN), tuple(std or open_clip.OPENAI_DATASET_STD)
    return adapt(clip.float(), tokenizer, size, mean, std, model_cfg, name, words)
