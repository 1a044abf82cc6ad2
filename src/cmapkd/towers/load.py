"""Load a DualEncoder from a TowerConfig: named architectures, open_clip folders, OpenAI and Hugging Face checkpoints; no network."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers import tokenizer as tok
from cmapkd.towers.adapt import adapt
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.hf_clip import from_hugging_face
from cmapkd.towers.named import architecture_config, folder_of, refuse_no_folder, split, tokenizer_folder_of
from cmapkd.towers.weights import is_openai, load_strict, read_config, read_state


def load_tower(
    config: TowerConfig,
    captions: Iterable[str] = (),
    tokenizer_folder: Path | None = None,
    teacher: TowerConfig | None = None,
    words: int = 24,
) -> DualEncoder:
    """The model that `config` names, with its weights if it names some, else randomly initialised.

    captions: texts that a `train:N` tokenizer is trained on; tokenizer_folder: where that tokenizer is written; teacher:
    the model whose tokenizer `tokenizer: teacher` refers to (its weights are not read); words: length of L1.
    Raises UsageError when the name, folder or weights cannot be used.
    """
    architecture, weights = split(config)
    if (folder := folder_of(architecture)) is not None:
        return _from_folder(folder, config.model, words)
    model_cfg = architecture_config(architecture)
    own, folder = _configured_tokenizer(config, model_cfg, captions, tokenizer_folder, teacher)
    if folder is not None:
        model_cfg["text_cfg"]["vocab_size"] = tok.vocabulary(folder)
        model_cfg["text_cfg"]["hf_tokenizer_name"] = "tokenizer"
    tokenizer = own or _architecture_tokenizer(model_cfg, architecture)
    state = None if weights is None else read_state(weights)
    if state is not None and is_openai(weights, state):
        model_cfg["quick_gelu"] = True
    clip = build(model_cfg)
    if state is not None:
        load_strict(clip, state, weights, config.model)
    return _adapted(clip, tokenizer, model_cfg, config.model, words)


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


def _from_folder(folder: Path, name: str, words: int) -> DualEncoder:
    """The model of an open_clip folder or of a Hugging Face CLIP folder."""
    refuse_no_folder(folder, name)
    if (folder / "open_clip_config.json").is_file():
        return _from_open_clip_folder(folder, name, words)
    if not (folder / "config.json").is_file():
        raise UsageError(f"model {name}: {folder} holds neither open_clip_config.json nor a Hugging Face config.json")
    model_cfg, state, mean, std = from_hugging_face(folder)
    clip = build(model_cfg)
    load_strict(clip, state, folder, name)
    tokenizer = tok.from_open_clip(_hugging_face_tokenizer(folder, model_cfg), model_cfg["text_cfg"]["context_length"])
    return _adapted(clip, tokenizer, model_cfg, name, words, mean, std)


def _from_open_clip_folder(folder: Path, name: str, words: int) -> DualEncoder:
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
        tokenizer = _architecture_tokenizer(model_cfg, name)
    return _adapted(clip, tokenizer, model_cfg, name, words, preprocess.get("mean"), preprocess.get("std"))


def _adapted(
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


def _configured_tokenizer(
    config: TowerConfig,
    model_cfg: dict[str, Any],
    captions: Iterable[str],
    folder: Path | None,
    teacher: TowerConfig | None,
) -> tuple[tok.Tokenizer | None, Path | None]:
    """(tokenizer, its folder) that the config asks for; (None, None) when that is the architecture's own."""
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


def _architecture_tokenizer(model_cfg: dict[str, Any], name: str) -> tok.Tokenizer:
    """The tokenizer that an architecture is published with: CLIP's, or a refusal where it is a download."""
    import open_clip

    text = model_cfg["text_cfg"]
    context = text.get("context_length", 77)
    if text.get("hf_tokenizer_name"):
        raise UsageError(
            f"model {name}: its tokenizer '{text['hf_tokenizer_name']}' would have to be downloaded; "
            "give model: local-dir:FOLDER with a tokenizer.json, or tokenizer: FOLDER"
        )
    return tok.from_open_clip(open_clip.SimpleTokenizer(context_length=context), context)


def _hugging_face_tokenizer(folder: Path, model_cfg: dict[str, Any]) -> object:
    """open_clip's reader of the folder's tokenizer files, or CLIP's own tokenizer where the folder has none."""
    import open_clip

    if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
        return open_clip.tokenizer.HFTokenizer(str(folder), context_length=model_cfg["text_cfg"]["context_length"])
    return open_clip.SimpleTokenizer(context_length=model_cfg["text_cfg"]["context_length"])
