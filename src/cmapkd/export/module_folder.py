"""Export of a student around a module as a folder: its weights, and the text tower's config and tokenizer where it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save

from cmapkd.core import fsio
from cmapkd.export.folder import write_folder
from cmapkd.export.open_clip_folder import CARD, TOKENIZER, exported_config, exported_state
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.module_folder import CONFIG, WEIGHTS
from cmapkd.towers.sources.text_config import FOLDER as ENCODER
from cmapkd.towers.sources.text_config import exported_text_config


def save_module(tower: DualEncoder, folder: Path, card: str, replace: bool = False) -> Path:
    """Write a student around a module, in one rename; towers/module_folder.py opens it."""
    config, words = tower.package.config, tower.tokenizer.folder
    facts: dict[str, Any] = {"backbone": config["backbone"]}
    weights = save(exported_state(tower.native), metadata={"format": "pt"})
    files = {WEIGHTS: weights, CARD: card.encode()}
    if "embedding" in config:
        facts["embedding"] = config["embedding"]
    else:
        facts |= {"model_cfg": exported_config(config["model_cfg"], words), "words": tower.text.words}
        if facts["model_cfg"]["text_cfg"].get("hf_model_name"):
            native: Any = tower.native
            files[f"{ENCODER}/config.json"] = fsio.json_bytes(exported_text_config(native.text))
    files[CONFIG] = fsio.json_bytes(facts)
    if words is not None:
        files |= {name: (words / name).read_bytes() for name in TOKENIZER if (words / name).is_file()}
    return write_folder(folder, files, replace)
