"""Export of a student of images alone as a folder that timm opens by `local-dir:PATH`: config, weights and card."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch

from cmapkd.core.errors import UsageError
from cmapkd.export.folder import write_folder
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.sources.timm import OWN

CARD = "README.md"


def save_timm(tower: DualEncoder, folder: Path, card: str, replace: bool = False) -> Path:
    """Write a model of package `timm` by timm's own export, in one rename; its classifier gives the embedding.

    Raises UsageError when the folder exists.
    """
    from timm.models import save_for_hf

    if folder.exists() and not replace:
        raise UsageError(f"export {folder}: exists already; give a new folder or remove it first")
    native: Any = tower.image.native
    trunk = copy.deepcopy(native.trunk).cpu().to(memory_format=torch.contiguous_format)  # safetensors takes no other
    own = {OWN: {"embedding": tower.package.config["embedding"]}}
    with tempfile.TemporaryDirectory(prefix="cmapkd-save-") as place:
        save_for_hf(trunk, place, model_config=own, safe_serialization=True)
        files = {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}
    return write_folder(folder, {**files, CARD: card.encode()}, replace)
