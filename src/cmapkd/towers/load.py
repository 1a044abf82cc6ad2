"""From a TowerConfig to a Tower: named architectures, open_clip folders, OpenAI and Hugging Face checkpoints, no network."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers import tokenizer as tok
from cmapkd.towers.dual import Tower
from cmapkd.towers.hf_clip import from_hugging_face
from cmapkd.towers.named import architecture_config, folder_of, refuse_no_folder, split, tokenizer_folder_of
from cmapkd.towers.weights import is_openai, load_strict, read_config, read_state


def load_tower(
    config: TowerConfig,
    captions: Iterable[str] = (),
    tokenizer_folder: Path | None = None,
    teacher: TowerConfig | None = None,
    words: int = 24,
) -> Tower:
    """Build the model that `config` names, with weights where it names them, else randomly initialised.

    captions: texts a `train:N` tokenizer learns from; tokenizer_folder: where it is written; teacher: whose tokenizer
    `tokenizer: teacher` means (its weights are not read).
    Raises UsageError when the name, folder or weights cannot be used.
    """
    architecture, weights = split(config)
    if (folder := folder_of(architecture)) is not None:
        return _from_folder(folder, config.model, words)
    model_cfg = architecture_config(architecture)
    wrapped, folder = _tokenizer(config, model_cfg, captions, tokenizer_folder, teacher)
    if folder is not None:
        model_cfg["text_cfg"]["vocab_size"] = tok.vocabulary(folder)
        model_cfg["text_cfg"]["hf_tokenizer_name"] = "tokenizer"
    state = None if weights is None else read_state(weights)
    if state is not None and is_openai(weights, state):
        model_cfg["quick_gelu"] = True
    clip = build(model_cfg)
    if state is not None:
        load_strict(clip, state, weights, config.model)
    return _tower(clip, wrapped or _own_tokenizer(model_cfg, architecture), model_cfg, config.model, words)


def build(model_cfg: dict[str, Any]) -> torch.nn.Module:
    """An open_clip CLIP of this config with random weights; never downloads towers' own weights."""
    from open_clip.model import CLIP, CustomTextCLIP

    cfg = copy.deepcopy(model_cfg)
    custom = cfg.pop("custom_text", False) or "hf_model_name" in cfg["text_cfg"]
    if "timm_model_name" in cfg["vision_cfg"]:
        cfg["vision_cfg"]["timm_model_pretrained"] = False
    if "multimodal_cfg" in cfg:
        raise UsageError("CoCa models have a generative head that distillation does not use; give a CLIP-type model")
    return (CustomTextCLIP if custom else CLIP)(**cfg)


def _from_folder(folder: Path, name: str, words: int) -> Tower:
    refuse_no_folder(folder, name)
    config_path = folder / "open_clip_config.json"
    if not config_path.is_file():
        if (folder / "config.json").is_file():
            model_cfg, state, mean, std = from_hugging_face(folder)
            clip = build(model_cfg)
            load_strict(clip, state, folder, name)
            wrapped = tok.from_open_clip(_hf_tokenizer(folder, model_cfg), model_cfg["text_cfg"]["context_length"])
            return _tower(clip, wrapped, model_cfg, name, words, mean, std)
        raise UsageError(f"model {name}: {folder} holds neither open_clip_config.json nor a Hugging Face config.json")
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
    context = model_cfg["text_cfg"].get("context_length", 77)
    if (folder / "tokenizer.json").is_file():
        wrapped = tok.from_folder(folder, context)
    else:
        wrapped = _own_tokenizer(model_cfg, name)
    return _tower(clip, wrapped, model_cfg, name, words, preprocess.get("mean"), preprocess.get("std"))


def _tower(
    clip: torch.nn.Module,
    wrapped: tok.Tokenizer,
    model_cfg: dict[str, Any],
    name: str,
    words: int,
    mean: Any = None,
    std: Any = None,
) -> Tower:
    import open_clip

    size = clip.visual.image_size  # type: ignore[union-attr]
    size = int(size if isinstance(size, int) else size[0])  # type: ignore[index]
    mean, std = tuple(mean or open_clip.OPENAI_DATASET_MEAN), tuple(std or open_clip.OPENAI_DATASET_STD)
    return Tower(clip.float(), wrapped, size, mean, std, model_cfg, name, words)


def _tokenizer(
    config: TowerConfig,
    model_cfg: dict[str, Any],
    captions: Iterable[str],
    folder: Path | None,
    teacher: TowerConfig | None,
) -> tuple[tok.Tokenizer | None, Path | None]:
    """The tokenizer that the config asks for and its folder; (None, None) when it is the architecture's own."""
    context = model_cfg["text_cfg"].get("context_length", 77)
    choice = config.tokenizer
    if choice == "own":
        return None, None
    if choice == "teacher":
        if teacher is None:
            raise UsageError("student.tokenizer is 'teacher', but the run has no teacher; use own, train:N or a folder")
        theirs = tokenizer_folder_of(teacher)
        return (None, None) if theirs is None else (tok.from_folder(theirs, context), theirs)
    if choice.startswith("train:"):
        size = choice.removeprefix("train:")
        if not size.isdigit() or int(size) < 64 or folder is None:
            raise UsageError(f"student.tokenizer is '{choice}'; train:N needs a whole number of entries, 64 or more")
        if (folder / "tokenizer.json").is_file():
            return tok.from_folder(folder, context), folder
        return tok.train(captions, int(size), context, folder), folder
    return tok.from_folder(Path(choice), context), Path(choice)


def _own_tokenizer(model_cfg: dict[str, Any], name: str) -> tok.Tokenizer:
    import open_clip

    text = model_cfg["text_cfg"]
    context = text.get("context_length", 77)
    if text.get("hf_tokenizer_name"):
        raise UsageError(
            f"model {name}: its tokenizer '{text['hf_tokenizer_name']}' would have to be downloaded; "
            "give model: local-dir:FOLDER with a tokenizer.json, or tokenizer: FOLDER"
        )
    return tok.from_open_clip(open_clip.SimpleTokenizer(context_length=context), context)


def _hf_tokenizer(folder: Path, model_cfg: dict[str, Any]) -> object:
    import open_clip

    if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
        return open_clip.tokenizer.HFTokenizer(str(folder), context_length=model_cfg["text_cfg"]["context_length"])
    return open_clip.SimpleTokenizer(context_length=model_cfg["text_cfg"]["context_length"])
