"""Sides of the models that a config names, told without building them: texts of their own, or a tower kept of the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cmapkd.config.sources import StudentConfig, TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.named import IMAGE_MODELS, MODULE_CONFIG, folder_of, is_timm_folder, split
from cmapkd.towers.sources.hf_config import TWO_TOWERS, model_type_of
from cmapkd.towers.sources.weights import read_config


def has_text(config: TowerConfig) -> bool:
    """Whether a model has a text tower of its own."""
    if config.model.startswith(tuple(f"{scheme}:" for scheme in IMAGE_MODELS)):
        return False
    folder = folder_of(split(config)[0])
    if folder is None or is_timm_folder(folder):
        return folder is None
    if (file := folder / MODULE_CONFIG).is_file():
        return "embedding" not in read_config(file)
    return vision_folder(config) is None


def vision_folder(config: TowerConfig) -> Path | None:
    """The Hugging Face folder of a model without a text tower, None for any other model."""
    folder = folder_of(split(config)[0])
    if folder is None or not (folder / "config.json").is_file() or is_timm_folder(folder):
        return None
    if (folder / "open_clip_config.json").is_file() and not config.model.startswith("hf:"):
        return None
    return None if model_type_of(folder) in ("clip", *TWO_TOWERS) else folder


def images_alone(config: TowerConfig, teacher: TowerConfig | None) -> bool:
    """Whether a student and its teacher are both models of images alone."""
    if not isinstance(config, StudentConfig) or teacher is None or config.text == "own":
        return False
    return not has_text(config) and not has_text(teacher)


def kept_side(config: TowerConfig, teacher: TowerConfig | None) -> Literal["image", "text"] | None:
    """The side of a student that is the teacher's own. Raises UsageError for a student that would have no text tower."""
    if not isinstance(config, StudentConfig):
        return None
    asked = "image" if config.image == "teacher" else "text" if config.text == "teacher" else None
    if asked is None and images_alone(config, teacher):
        return None
    if asked is None and not has_text(config):
        if config.text == "own" or teacher is None or not has_text(teacher):
            raise UsageError(
                f"student.model {config.model} has no text tower, and there is no teacher's to keep; give a teacher with a "
                "text tower and student.text: teacher, or a student with both towers"
            )
        asked = "text"
    if asked is not None and teacher is None:
        raise UsageError(f"student.{asked} is 'teacher', but the run has no teacher; set teacher.model")
    return asked
