"""Export of a student around a module as a folder: its weights, and the text tower's config and tokenizer where it has one."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from cmapkd.core import fsio
from cmapkd.export.folder import write_folder
from cmapkd.export.open_clip_folder import CARD, TOKENIZER, exported_config, exported_state
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.module_folder import CONFIG, WEIGHTS


def save_module(tower: DualEncoder, folder: Path, card: str, replace: bool = False) -> Path:
    """Write a student around a module, in one rename; towers/module_folder.py opens it."""
    config, words = tower.package.config, tower.tokenizer.folder
    facts = {"backbone": config["backbone"]}
    if "embedding" in config:
        facts["embedding"] = config["embedding"]
    else:
        facts |= {"model_cfg": exported_config(config["model_cfg"], words), "words": tower.text.words}
    weights = save(exported_state(tower.native), metadata={"format": "pt"})
    files = {CONFIG: fsio.json_bytes(facts), WEIGHTS: weights, CARD: card.encode()}
    if words is not None:
        files |= {name: (words / name).read_bytes() for name in TOKENIZER if (words / name).is_file()}
    return write_folder(folder, files, replace)
