"""A student around a module, read from its folder: with the module given again, or with torchvision's, which the folder names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmapkd.core.errors import UsageError
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.images_alone import module_alone
from cmapkd.towers.joined import around_module
from cmapkd.towers.named import MODULE_CONFIG as CONFIG
from cmapkd.towers.sources import torchvision
from cmapkd.towers.sources.module import Backbone
from cmapkd.towers.sources.weights import load_strict, read_config, read_state

WEIGHTS = "model.safetensors"


def named_module(folder: Path, name: str) -> DualEncoder:
    """The student of a folder around a torchvision model. Raises UsageError where the module is the user's own."""
    source = facts_of(folder)["backbone"].get("source")
    if not source:
        raise UsageError(
            f"model {name}: is a student around a module of your own code; open it by cmapkd.load({str(folder)!r}, image=module)"
        )
    return open_module(folder, torchvision.backbone(source))


def open_module(folder: Path, backbone: Backbone) -> DualEncoder:
    """The student of a folder around the same module, with its weights.

    Raises UsageError for a folder without such a student and for a module of other tensors.
    """
    facts = facts_of(folder)
    if "embedding" in facts:
        tower = module_alone(backbone, facts["embedding"])
    else:
        tower = around_module(backbone, facts["model_cfg"], folder, facts["words"])
    load_strict(tower.native, read_state(folder / WEIGHTS), folder / WEIGHTS, backbone.name)
    return tower


def facts_of(folder: Path) -> dict[str, Any]:
    """The description of a student around a module. Raises UsageError for a folder without one, and for a damaged one."""
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder}: holds no {CONFIG}, so no student around a module; open it without image=")
    facts = read_config(folder / CONFIG)
    if not isinstance(facts.get("backbone"), dict) or not (
        "embedding" in facts or {"model_cfg", "words"} <= set(facts)
    ):
        raise UsageError(f"{folder / CONFIG}: does not describe a student around a module; is it damaged?")
    return facts
