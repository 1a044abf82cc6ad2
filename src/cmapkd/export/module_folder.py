"""A student around a module of the user's own as a folder: its weights, the text tower's config and tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.export.folder import write_folder
from cmapkd.export.open_clip_folder import CARD, TOKENIZER, exported_config, exported_state
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.joined import around_module
from cmapkd.towers.sources.module import Backbone
from cmapkd.towers.sources.text_config import FOLDER as ENCODER
from cmapkd.towers.sources.text_config import exported_text_config

CONFIG, WEIGHTS = "module_config.json", "model.safetensors"


def save_module(tower: DualEncoder, folder: Path, card: str, replace: bool = False) -> Path:
    """Write a student around a user's module, in one rename; `open_module` opens it with the module given again."""
    config, words = tower.package.config, tower.tokenizer.folder
    text = exported_config(config["model_cfg"], words)
    facts = {"model_cfg": text, "backbone": config["backbone"], "words": tower.text.words}
    weights = save(exported_state(tower.native), metadata={"format": "pt"})
    files = {CONFIG: fsio.json_bytes(facts), WEIGHTS: weights, CARD: card.encode()}
    if text["text_cfg"].get("hf_model_name"):
        files[f"{ENCODER}/config.json"] = fsio.json_bytes(exported_text_config(tower.native.text))
    if words is not None:
        files |= {name: (words / name).read_bytes() for name in TOKENIZER if (words / name).is_file()}
    return write_folder(folder, files, replace)


def open_module(folder: Path, backbone: Backbone) -> DualEncoder:
    """The student of a folder around the same module, with its weights.

    Raises UsageError for a folder without such a student and for a module of other tensors.
    """
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder}: holds no {CONFIG}, so no student around a module; open it without image=")
    facts = json.loads((folder / CONFIG).read_text())
    tower = around_module(backbone, facts["model_cfg"], folder, facts["words"])
    try:
        tower.native.load_state_dict(load_file(str(folder / WEIGHTS)))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"{folder}: its weights are not of this module ({reason}); give the one that was trained"
        ) from None
    return tower
