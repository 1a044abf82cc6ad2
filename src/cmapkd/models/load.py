"""From a TowerConfig to a Tower: named architectures, open_clip folders, OpenAI and Hugging Face checkpoints, no network."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.models import tokenizer as tok
from cmapkd.models.hf_clip import from_hugging_face
from cmapkd.models.tower import Tower
from cmapkd.models.weights import file_hash, is_openai, load_strict, read_config, read_state

SHIPPED = Path(__file__).parent / "configs"
ASSETS = Path(__file__).parent.parent / "assets"


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
    architecture, weights = _split(config)
    if (folder := _folder_of(architecture)) is not None:
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


def identity(config: TowerConfig) -> dict[str, str]:
    """What makes this model the one it is: hashes of its weights, architecture and tokenizer, read without building it."""
    architecture, weights = _split(config)
    folder = _folder_of(architecture)
    if folder is None:
        shape, words = json.dumps(architecture_config(architecture), sort_keys=True).encode(), config.tokenizer
        return {
            "weights": "random" if weights is None else file_hash(weights),
            "architecture": _hash(shape),
            "tokenizer": words,
        }
    files = sorted(p for p in folder.glob("*") if p.is_file() and p.suffix in (".json", ".safetensors", ".bin"))
    if not files:
        _refuse_no_folder(folder, config.model)
        raise UsageError(f"model {config.model}: {folder} holds no model; give a folder with its config and weights")
    part = {
        "weights": [p for p in files if p.suffix != ".json"],
        "architecture": [
            p for p in files if p.name in ("open_clip_config.json", "config.json", "preprocessor_config.json")
        ],
        "tokenizer": [p for p in files if p.name in ("tokenizer.json", "vocab.json")],
    }
    return {name: _hash("".join(file_hash(p) for p in paths).encode()) for name, paths in part.items()}


def image_size(config: TowerConfig) -> int:
    """The side in pixels that a model reads, from its config alone."""
    architecture, _ = _split(config)
    folder = _folder_of(architecture)
    if folder is None:
        vision = architecture_config(architecture)["vision_cfg"]
    elif (own := folder / "open_clip_config.json").is_file():
        vision = read_config(own)["model_cfg"]["vision_cfg"]
    else:
        vision = from_hugging_face(folder)[0]["vision_cfg"]
    size = vision.get("image_size", 224)
    return int(size if isinstance(size, int) else size[0])


def warn_of_random(config: TowerConfig, key: str) -> None:
    """Say that a model which others shall learn from, `key` in the config, is an architecture without a checkpoint."""
    architecture, weights = _split(config)
    if _folder_of(architecture) is None and weights is None:
        say(
            f"warning: {key} {config.model} has RANDOM WEIGHTS and can only teach noise; name a checkpoint: "
            f"{architecture}:FILE, {key.split('.')[0]}.weights, or local-dir:FOLDER"
        )


def weight_files(config: TowerConfig) -> list[Path]:
    """The files that a model's own weights are in; none for an architecture with random weights."""
    architecture, weights = _split(config)
    folder = _folder_of(architecture)
    if folder is None:
        return [] if weights is None else [weights]
    known = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
    return [folder / name for name in known if (folder / name).is_file()][:1]


def tokenizer_folder_of(config: TowerConfig) -> Path | None:
    """The folder with the tokenizer.json that a model brings, None when it uses CLIP's own vocabulary."""
    folder = _folder_of(_split(config)[0])
    return folder if folder is not None and (folder / "tokenizer.json").is_file() else None


def architecture_config(name: str) -> dict[str, Any]:
    """The open_clip model config of a named architecture, shipped small ones included."""
    import open_clip

    shipped = SHIPPED / f"{name}.json"
    if shipped.is_file():
        return json.loads(shipped.read_text())
    found = open_clip.get_model_config(name.replace("/", "-"))
    if found is None:
        names = [path.stem for path in SHIPPED.glob("*.json")] + open_clip.list_models()
        near = difflib.get_close_matches(name, names, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UsageError(
            f"model '{name}' is neither a folder, nor a file, nor a known architecture{hint}; see `cmapkd list towers`"
        )
    return copy.deepcopy(found)


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


def _split(config: TowerConfig) -> tuple[str, Path | None]:
    """`ViT-L-14:/path.safetensors` names architecture and weights at once; a bare folder is a local-dir."""
    if config.model.startswith(("local-dir:", "shipped:")):
        return config.model, None
    path = Path(config.model)
    if path.is_dir():
        return f"local-dir:{path}", None
    if path.is_file():
        raise UsageError(f"model {config.model}: a file alone does not say its architecture; write NAME:{config.model}")
    name, _, rest = config.model.partition(":")
    return name, Path(rest) if rest else config.weights


def _folder_of(architecture: str) -> Path | None:
    if architecture.startswith("shipped:"):
        return ASSETS / architecture.removeprefix("shipped:")
    return Path(architecture.removeprefix("local-dir:")) if architecture.startswith("local-dir:") else None


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse_no_folder(folder: Path, name: str) -> None:
    if folder.is_dir():
        return
    if name.startswith("shipped:"):
        names = ", ".join(sorted(f"shipped:{path.name}" for path in ASSETS.iterdir() if path.is_dir()))
        raise UsageError(f"model {name}: none of that name ships with the package; there are: {names}")
    raise UsageError(f"model {name}: folder {folder} not found; check the path")


def _from_folder(folder: Path, name: str, words: int) -> Tower:
    _refuse_no_folder(folder, name)
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
