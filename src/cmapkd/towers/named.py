"""Architecture, files, identity and image size of the model that a TowerConfig names, read without building it."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError, did_you_mean
from cmapkd.core.log import say
from cmapkd.towers.sources.hf_clip import from_hugging_face
from cmapkd.towers.sources.weights import file_hash, read_config

SHIPPED = Path(__file__).parent / "configs"
ASSETS = Path(__file__).parent.parent / "assets"


def identity(config: TowerConfig) -> dict[str, str]:
    """Hashes of a model's weights, architecture and tokenizer, read without building it."""
    architecture, weights = split(config)
    folder = folder_of(architecture)
    if folder is None:
        shape, words = json.dumps(architecture_config(architecture), sort_keys=True).encode(), config.tokenizer
        return {
            "weights": "random" if weights is None else file_hash(weights),
            "architecture": _hash(shape),
            "tokenizer": words,
        }
    files = sorted(
        p
        for p in (*folder.glob("*"), folder / "text" / "config.json")
        if p.is_file() and p.suffix in (".json", ".safetensors", ".bin")
    )
    if not files:
        refuse_no_folder(folder, config.model)
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
    """Side in pixels of the images that a model reads, from its config alone."""
    architecture, _ = split(config)
    folder = folder_of(architecture)
    if folder is None:
        vision = architecture_config(architecture)["vision_cfg"]
    elif (own := folder / "open_clip_config.json").is_file():
        vision = read_config(own)["model_cfg"]["vision_cfg"]
    else:
        vision = from_hugging_face(folder)[0]["vision_cfg"]
    return square(vision.get("image_size", 224), config.model)


def square(size: Any, name: str) -> int:
    """The side of images whose size is S or [S, S]. Raises UsageError for other shapes."""
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UsageError(
            f"model {name}: reads images of {height} × {width} pixels, but levels are maps of square images; use a model of "
            "square images"
        )
    return int(height)


def warn_of_random(config: TowerConfig, key: str) -> None:
    """Print a warning where a teacher, `key` in the config, is an architecture without a checkpoint."""
    architecture, weights = split(config)
    if folder_of(architecture) is None and weights is None:
        architecture_config(architecture)  # an unknown name is another mistake, which this raises
        say(
            f"warning: {key} {config.model} has RANDOM WEIGHTS and can only teach noise; name a checkpoint: "
            f"{architecture}:FILE, {key.split('.')[0]}.weights, or local-dir:FOLDER"
        )


def weight_files(config: TowerConfig) -> list[Path]:
    """The files that hold a model's weights; none for an architecture with random weights."""
    architecture, weights = split(config)
    folder = folder_of(architecture)
    if folder is None:
        return [] if weights is None else [weights]
    known = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
    return [folder / name for name in known if (folder / name).is_file()][:1]


def tokenizer_folder_of(config: TowerConfig) -> Path | None:
    """The folder of a model's own tokenizer.json, None when it uses CLIP's vocabulary."""
    folder = folder_of(split(config)[0])
    return folder if folder is not None and (folder / "tokenizer.json").is_file() else None


def architecture_config(name: str) -> dict[str, Any]:
    """The open_clip model config of a named architecture, open_clip's own or one that ships with this package."""
    import open_clip

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


def split(config: TowerConfig) -> tuple[str, Path | None]:
    """(architecture, weights file or None): `ViT-L-14:/path.safetensors` names both, an existing folder is a local-dir."""
    if config.model.startswith(("local-dir:", "shipped:")):
        return config.model, None
    path = Path(config.model)
    if path.is_dir():
        return f"local-dir:{path}", None
    if path.is_file():
        raise UsageError(f"model {config.model}: a file alone does not say its architecture; write NAME:{config.model}")
    name, _, rest = config.model.partition(":")
    return name, Path(rest) if rest else config.weights


def folder_of(architecture: str) -> Path | None:
    """The folder of a `shipped:` or `local-dir:` model, None for a named architecture."""
    if architecture.startswith("shipped:"):
        return ASSETS / architecture.removeprefix("shipped:")
    return Path(architecture.removeprefix("local-dir:")) if architecture.startswith("local-dir:") else None


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refuse_no_folder(folder: Path, name: str) -> None:
    """Raise UsageError where a model's folder does not exist."""
    if folder.is_dir():
        return
    if name.startswith("shipped:"):
        names = ", ".join(sorted(f"shipped:{path.name}" for path in ASSETS.iterdir() if path.is_dir()))
        raise UsageError(f"model {name}: none of that name ships with the package; there are: {names}")
    raise UsageError(f"model {name}: folder {folder} not found; check the path")
