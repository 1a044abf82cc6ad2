"""Vision models of transformers as image towers of students: of a Hugging Face folder, or timm's in transformers' wrapper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmapkd.config.sources import StudentConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.evaluating import evaluating
from cmapkd.towers.families.image_hf import ImageHalf
from cmapkd.towers.named import split
from cmapkd.towers.sides import vision_folder
from cmapkd.towers.sources import timm
from cmapkd.towers.sources.hf_config import hugging_face_config
from cmapkd.towers.sources.hf_images import ImageFacts, vision_facts
from cmapkd.towers.sources.hugging_face import quiet, vision_part


@dataclass(frozen=True)
class Vision:
    """A vision model of transformers, the pixels that it reads, and the width of its pooled vector."""

    model: Any
    facts: ImageFacts
    width: int

    def half(self, embedding: int) -> ImageHalf:
        """The image tower with a new linear map to a joint space of width `embedding`."""
        return ImageHalf(self.model, nn.Linear(self.width, embedding, bias=False), "pooler")


def student_vision(config: StudentConfig) -> Vision:
    """The vision model that a student's config names. Raises UsageError for a name of anything else."""
    name, weights = split(config)
    with quiet():
        if name.startswith(timm.SCHEME):
            vision, facts = _wrapped(name, weights, config.model)
        elif (folder := vision_folder(config)) is not None:
            described = hugging_face_config(folder)
            vision, _ = vision_part(folder, described, config.weights)
            facts = vision_facts(folder, described, config.model, config.image_size)
        else:
            raise UsageError(
                f"student {config.model}: is no vision model of transformers, which stands beside the text tower of a Hugging "
                "Face teacher; name timm:NAME or the folder of a vision model, or give a student with both towers"
            )
    vision.config._name_or_path = ""
    return Vision(vision, facts, _width(vision, facts.size, config.model))


def of_config(facts: dict[str, Any], embedding: int) -> ImageHalf:
    """The image tower whose config a student's folder keeps (`Vision.model.config.to_dict()`), with random weights."""
    from transformers import CONFIG_MAPPING, AutoModel

    described = CONFIG_MAPPING[facts["vision_config"]["model_type"]].from_dict(facts["vision_config"])
    with quiet():
        vision: Any = AutoModel.from_config(described, dtype=torch.float32)
    return Vision(vision, ImageFacts(facts["image_size"], (), (), {}), facts["width"]).half(embedding)


def _wrapped(name: str, weights: Path | None, given: str) -> tuple[Any, ImageFacts]:
    """A model of timm inside TimmWrapperModel."""
    from transformers import TimmWrapperConfig, TimmWrapperModel

    facts = timm.timm_facts(name)
    size, mean, std = facts["image_size"], facts["mean"], facts["std"]
    pixels = {"input_size": [3, size, size], "mean": list(mean), "std": list(std)}
    described = TimmWrapperConfig.from_dict(
        {"architecture": facts["timm_model_name"], "pretrained_cfg": pixels, "num_classes": 0, "label_names": []}
    )
    vision = TimmWrapperModel(described).float()
    timm.load_trunk(vision.timm_model, weights, given)  # type: ignore[arg-type]
    return vision, ImageFacts(size, mean, std, {})


def _width(vision: Any, size: int, name: str) -> int:
    """Width of the pooled vector, from one empty image. Raises UsageError where there is none that a linear map can read."""
    with torch.no_grad(), evaluating(vision):
        pooled = getattr(vision(torch.zeros(1, 3, size, size)), "pooler_output", None)
    if pooled is None or pooled.ndim != 2:
        found = "no pooled vector" if pooled is None else f"pooled maps {tuple(pooled.shape[1:])}"
        raise UsageError(
            f"student {name}: {type(vision).__name__} gives {found}, but a student's linear map reads a pooled vector [B, D]; "
            "name the model of timm (timm:NAME)"
        )
    return pooled.shape[1]
