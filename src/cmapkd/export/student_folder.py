"""Export of a student as a folder of the library that opens it: open_clip, transformers or timm, or cmapkd around a module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cmapkd.core.errors import UsageError
from cmapkd.export import module_folder, open_clip_folder, transformers_folder
from cmapkd.export.module_folder import save_module
from cmapkd.export.open_clip_folder import save_open_clip
from cmapkd.export.timm_folder import save_timm
from cmapkd.export.transformers_folder import save_transformers
from cmapkd.towers.dual import DualEncoder

CONFIGS = (open_clip_folder.CONFIG, transformers_folder.CONFIG, module_folder.CONFIG)  # timm's has the second name too


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds a model of one of the libraries."""
    return any((folder / name).is_file() for name in CONFIGS)


def save_student(
    tower: DualEncoder, folder: Path, card: str, dtype: torch.dtype = torch.float32, replace: bool = False
) -> Path:
    """Write a model as a folder of its own library, in one rename. Raises UsageError for float16 of a model that is not open_clip's."""
    library = tower.package.library
    if library != "open_clip" and dtype != torch.float32:
        raise UsageError(f"export {tower.name}: {library} models are written in float32; drop --dtype fp16")
    if library == "transformers":
        return save_transformers(tower, folder, card, replace)
    if library == "timm":
        return save_timm(tower, folder, card, replace)
    if library == "module":
        return save_module(tower, folder, card, replace)
    config, files = tower.package.config, tower.tokenizer.folder
    return save_open_clip(tower.native, config, preprocess(tower), files, folder, card, dtype, replace)


def preprocess(tower: DualEncoder) -> dict[str, Any]:
    """The preprocess_cfg of open_clip for a tower."""
    mean, std = (tower.image.mean, tower.image.std)
    return {
        "size": tower.size, "mode": "RGB", "mean": list(mean), "std": list(std), "interpolation": "bicubic",
        "resize_mode": "shortest",
    }  # fmt: skip


def card_facts(tower: DualEncoder) -> Mapping[str, Any]:
    """Facts of a model card that follow from the model: parameters, and the library that opens it and from where."""
    params = sum(p.numel() for p in tower.native.parameters())
    config = tower.package.config
    encoder = bool(config.get("text_cfg", {}).get("hf_model_name"))
    return {
        "params": params,
        "library": "cmapkd" if "vision_config" in config.get("backbone", {}) else tower.package.library,
        "class": config.get("class", "AutoModel"),
        "encoder": encoder,
        "images_alone": "text" not in tower.shape.sides,
    }
