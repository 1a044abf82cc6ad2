"""Architecture, files, identity and image size of the model that a TowerConfig names, read without building it."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

from cmapkd.config.sources import TowerConfig
from cmapkd.core.errors import UsageError, did_you_mean
from cmapkd.core.log import say
from cmapkd.towers.sources import downloads
from cmapkd.towers.sources.hf_config import hugging_face_config, is_own_folder
from cmapkd.towers.sources.hf_images import image_facts
from cmapkd.towers.sources.hf_weights import RANDOM, hugging_face_files
from cmapkd.towers.sources.weights import file_hash, read_config
from cmapkd.towers.tokens.hugging_face import tokenizer_files

SHIPPED = Path(__file__).parent / "configs"
ASSETS = Path(__file__).parent.parent / "assets"
SUFFIXES = (".json", ".safetensors", ".bin", ".txt", ".model")
MODULE_CONFIG = "module_config.json"  # of the folder of a student around a module
ARCHITECTURE = (
    "open_clip_config.json",
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    MODULE_CONFIG,
)
IMAGE_MODELS = ("timm", "torchvision", "module")  # schemes of models without a text tower


def identity(config: TowerConfig) -> dict[str, str]:
    """Hashes of a model's weights, architecture and tokenizer, read without building it."""
    own = {} if config.image_size is None else {"image_size": str(config.image_size)}
    return _hashes(config) | own


def _hashes(config: TowerConfig) -> dict[str, str]:
    architecture, weights = split(config)
    folder = folder_of(architecture)
    if folder is None:
        shape = json.dumps(architecture_config(architecture), sort_keys=True).encode()
        given = tokenizer_folder_of(config)
        return {
            "weights": "random" if weights is None else file_hash(weights),
            "architecture": _hash(shape),
            "tokenizer": config.tokenizer if given is None else _files_hash(tokenizer_files(given)),
        }
    files = sorted(
        p for p in (*folder.glob("*"), folder / "text" / "config.json") if p.is_file() and p.suffix in SUFFIXES
    )
    if not files:
        refuse_no_folder(folder, config.model)
        raise UsageError(f"model {config.model}: {folder} holds no model; give a folder with its config and weights")
    part = {
        "weights": [p for p in files if p.suffix in (".safetensors", ".bin")],
        "architecture": [p for p in files if p.name in ARCHITECTURE],
        "tokenizer": tokenizer_files(folder),
    }
    hashes = {name: _files_hash(paths) for name, paths in part.items()}
    return hashes | ({"weights": RANDOM} if random_folder(config) else {})


def image_size(config: TowerConfig) -> int:
    """Side in pixels of the images that a model reads, from its config alone."""
    if config.image_size is not None:
        return config.image_size
    architecture, _ = split(config)
    folder = folder_of(architecture)
    if folder is None:
        vision = architecture_config(architecture)["vision_cfg"]
    elif (own := folder / "open_clip_config.json").is_file():
        vision = read_config(own)["model_cfg"]["vision_cfg"]
    elif is_own_folder(folder):
        vision = read_config(folder / MODULE_CONFIG)["backbone"]
    elif (own := folder / MODULE_CONFIG).is_file():
        vision = read_config(own)["backbone"]
    elif is_timm_folder(folder):
        from cmapkd.towers.sources.timm import folder_facts

        vision = folder_facts(folder)
    else:
        return image_facts(folder, hugging_face_config(folder)).size
    return square(vision.get("image_size", 224), config.model)


def square(size: Any, name: str) -> int:
    """The side of images whose size is S or [S, S]. Raises UsageError for other shapes."""
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UsageError(
            f"model {name}: reads images of {height} × {width} pixels, but levels are maps of square images; set image_size "
            "to read square ones, or use a model of square images"
        )
    return int(height)


def warn_of_random(config: TowerConfig, key: str) -> None:
    """Print a warning where a teacher, `key` in the config, is an architecture without a checkpoint."""
    architecture, weights = split(config)
    if random_folder(config):
        say(f"warning: {key} {config.model} has RANDOM WEIGHTS by {key.split('.')[0]}.weights and can only teach noise")
    elif folder_of(architecture) is None and weights is None:
        architecture_config(architecture)  # an unknown name is another mistake, which this raises
        say(
            f"warning: {key} {config.model} has RANDOM WEIGHTS and can only teach noise; name a checkpoint: "
            f"{architecture}/TAG, {architecture}:FILE, {key.split('.')[0]}.weights, or local-dir:FOLDER"
        )


def weight_files(config: TowerConfig) -> list[Path]:
    """The files that hold a model's weights; none for an architecture with random weights."""
    architecture, weights = split(config)
    folder = folder_of(architecture)
    if folder is None:
        return [] if weights is None else [weights]
    if random_folder(config):
        return []
    known = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return [folder / name for name in known if (folder / name).is_file()][:1] or hugging_face_files(folder)


def random_folder(config: TowerConfig) -> bool:
    """Whether only the config of a model's folder is used, by `weights: random`."""
    return str(config.weights) == RANDOM and folder_of(split(config)[0]) is not None


def tokenizer_folder_of(config: TowerConfig) -> Path | None:
    """The folder of a model's own tokenizer, None when it uses CLIP's vocabulary."""
    architecture, _ = split(config)
    folder = folder_of(architecture)
    if folder is None:
        if config.tokenizer not in ("own", "teacher") and not config.tokenizer.startswith("train:"):
            return Path(config.tokenizer)
        named = architecture_config(architecture).get("text_cfg", {}).get("hf_tokenizer_name")
        return downloads.tokenizer_folder(named, config.download) if named and config.tokenizer == "own" else None
    own = folder / "open_clip_config.json"
    if own.is_file() and not read_config(own).get("model_cfg", {}).get("text_cfg", {}).get("hf_tokenizer_name"):
        return None
    return folder if tokenizer_files(folder) else None


def architecture_config(name: str) -> dict[str, Any]:
    """The open_clip model config of a named architecture, open_clip's own or one that ships with this package."""
    import open_clip

    if name.startswith("timm:"):
        from cmapkd.towers.sources.timm import timm_facts

        return {"vision_cfg": timm_facts(name)}
    if name.startswith("torchvision:"):
        from cmapkd.towers.sources.torchvision import torchvision_facts

        return {"vision_cfg": torchvision_facts(name) | {"model": name}}
    if name.startswith("module:"):
        from cmapkd.towers.sources.module import backbone_of

        return {"vision_cfg": backbone_of(name).facts()}
    shipped = SHIPPED / f"{name}.json"
    if shipped.is_file():
        return json.loads(shipped.read_text())
    found = open_clip.get_model_config(name.replace("/", "-"))
    if found is None:
        names = [path.stem for path in SHIPPED.glob("*.json")] + open_clip.list_models()
        hint = did_you_mean(name, names)
        raise UsageError(
            f"model '{name}' is neither a folder, nor a file, nor a known architecture{hint}; see `cmapkd list towers`"
        )
    return copy.deepcopy(found)


def is_timm_folder(folder: Path) -> bool:
    from cmapkd.towers.sources.timm import is_folder

    return is_folder(folder)


def split(config: TowerConfig) -> tuple[str, Path | None]:
    """(architecture, weights file or None): `ViT-L-14:/path.safetensors` names both, an existing folder is a local-dir."""
    if config.model.startswith(("local-dir:", "shipped:")):
        return config.model, None
    if config.model.startswith("hf:"):
        return f"local-dir:{config.model.removeprefix('hf:')}", None
    if config.model.startswith("hf-hub:"):
        return f"local-dir:{downloads.hub_folder(config.model.removeprefix('hf-hub:'), config.download)}", None
    path = Path(config.model)
    if path.is_dir():
        return f"local-dir:{path}", None
    if path.is_file():
        raise UsageError(f"model {config.model}: a file alone does not say its architecture; write NAME:{config.model}")
    if (tag := published_tag(config)) is not None:
        name = config.model.rpartition("/")[0]
        return name, config.weights or downloads.tag_file(name, tag, config.download)
    scheme, name, rest = "", *config.model.partition(":")[::2]
    if name in IMAGE_MODELS:
        scheme, name, rest = f"{name}:", *rest.partition(":")[::2]
    return scheme + name, Path(rest) if rest else config.weights


def published_tag(config: TowerConfig) -> str | None:
    """The tag of `ARCHITECTURE/TAG`, under which open_clip publishes weights; None for any other name."""
    architecture, slash, tag = config.model.rpartition("/")
    if not slash or ":" in config.model or Path(config.model).exists():
        return None
    from open_clip.pretrained import is_pretrained_cfg, list_pretrained_tags_by_model

    if is_pretrained_cfg(architecture, tag):
        return tag
    if tags := list_pretrained_tags_by_model(architecture):
        raise UsageError(
            f"model {config.model}: open_clip publishes no '{tag}' of {architecture}; there are: {', '.join(tags)}"
        )
    return None


def folder_of(architecture: str) -> Path | None:
    """The folder of a `shipped:` or `local-dir:` model, None for a named architecture."""
    if architecture.startswith("shipped:"):
        return ASSETS / architecture.removeprefix("shipped:")
    return Path(architecture.removeprefix("local-dir:")) if architecture.startswith("local-dir:") else None


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files_hash(paths: list[Path]) -> str:
    return _hash("".join(file_hash(path) for path in paths).encode())


def refuse_no_folder(folder: Path, name: str) -> None:
    """Raise UsageError where a model's folder does not exist."""
    if folder.is_dir():
        return
    if name.startswith("shipped:"):
        names = ", ".join(sorted(f"shipped:{path.name}" for path in ASSETS.iterdir() if path.is_dir()))
        raise UsageError(f"model {name}: none of that name ships with the package; there are: {names}")
    raise UsageError(f"model {name}: folder {folder} not found; check the path")
