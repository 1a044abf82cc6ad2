"""Students with one side of the teacher: the other tower's model beside the teacher's own text or image tower.

The student is the teacher's open_clip model with another image tower, or another model with the teacher's image tower; either
way a plain open_clip model, whose kept side is the teacher's to the bit. joined_hf.py has the students of transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmapkd.config.sources import StudentConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.adapt import adapt, image_tower, text_tower
from cmapkd.towers.dual import DualEncoder, Package
from cmapkd.towers.joined_hf import beside_open_clip, dual_encoder, text_in_open_clip
from cmapkd.towers.named import architecture_config, folder_of, split
from cmapkd.towers.sides import vision_folder
from cmapkd.towers.similarity import Similarity
from cmapkd.towers.sources import module, open_clip, timm, torchvision
from cmapkd.towers.sources.hf_student import of_config
from cmapkd.towers.sources.weights import load_strict, read_config, read_state
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.towers.tokens.chosen import architecture_tokenizer, options_of


def with_teachers_text(config: StudentConfig, teacher: DualEncoder, words: int) -> DualEncoder:
    """The image tower that `config` names, projected to the teacher's space, beside the text tower of `teacher`, which is used up.

    Raises UsageError where the two do not fit into one open_clip model.
    """
    refuse_no_side(config, teacher, "text")
    if config.tokenizer not in ("own", "teacher"):
        raise UsageError(
            f"student.tokenizer is '{config.tokenizer}', but student.text is the teacher's with the teacher's tokenizer; drop it"
        )
    if teacher.package.library == "transformers":
        found = text_in_open_clip(teacher, words)
        if found is None:
            return dual_encoder(config, teacher, words)
        teacher = found
    clip, cfg = teacher.native, copy.deepcopy(teacher.package.config)
    if vision_folder(config) is not None:
        return beside_open_clip(config, clip, teacher.tokenizer, cfg, words)
    name, weights = split(config)
    if name.startswith(torchvision.SCHEME):
        return _with_module(torchvision.backbone(name, weights), clip, teacher.tokenizer, cfg, words)
    if name.startswith(module.SCHEME):
        return _with_module(module.backbone_of(name), clip, teacher.tokenizer, cfg, words)
    if name.startswith(timm.SCHEME):
        facts, cfg["vision_cfg"] = timm.timm_facts(name), timm.vision_cfg(name)
        visual: Any = _visual(cfg)
        timm.load_trunk(visual.trunk, weights, config.model)
        size, mean, std = facts["image_size"], facts["mean"], facts["std"]
    else:
        if folder_of(name) is not None or weights is not None:
            raise UsageError(
                f"student.text: teacher takes the image tower of {config.model} with random weights only; name the "
                "architecture without a file, or drop student.text and set student.frozen: [text]"
            )
        cfg["vision_cfg"] = architecture_config(name)["vision_cfg"] | {"timm_model_pretrained": False}
        visual, size = _visual(cfg), _side(cfg["vision_cfg"])
        mean, std = teacher.image.mean, teacher.image.std
    clip.visual = visual
    student = adapt(clip, teacher.tokenizer, size, mean, std, cfg, config.model, words)
    student.kept = "text"
    return student


def around_module(backbone: module.Backbone, cfg: dict[str, Any], folder: Path, words: int) -> DualEncoder:
    """A user's module beside the text tower of an open_clip config, with weights of any kind; folder: of its tokenizer."""
    clip = open_clip.build(cfg, folder)
    return _with_module(backbone, clip, _tokenizer(cfg, folder), cfg, words)


def own_folder(folder: Path, name: str) -> DualEncoder:
    """The student of a vision model of transformers beside an open_clip text tower, with the weights of its folder."""
    facts = read_config(folder / "module_config.json")
    cfg, kept = facts["model_cfg"], facts["backbone"]
    clip = open_clip.build(cfg, folder)
    clip.visual = of_config(kept, cfg["embed_dim"])
    load_strict(clip, read_state(folder / "model.safetensors"), folder, name)
    tokenizer = _tokenizer(cfg, folder)
    mean, std = tuple(kept["mean"]), tuple(kept["std"])
    student = adapt(clip, tokenizer, kept["image_size"], mean, std, cfg, name, facts["words"])
    student.package = Package("module", {"model_cfg": cfg, "backbone": kept})
    return student


def _tokenizer(cfg: dict[str, Any], folder: Path) -> Any:
    """The tokenizer of a folder, CLIP's where it holds none."""
    if (folder / "tokenizer.json").is_file():
        return tok.from_folder(folder, cfg["text_cfg"].get("context_length", 77), options_of(cfg))
    return architecture_tokenizer(cfg, str(folder))


def _with_module(
    backbone: module.Backbone, clip: nn.Module, tokenizer: Any, cfg: dict[str, Any], words: int
) -> DualEncoder:
    clip.visual = module.UserVisual(backbone, cfg["embed_dim"])
    image = image_tower(clip.visual, backbone.size, backbone.mean, backbone.std)
    text = text_tower(clip, tokenizer, words)
    package = Package("module", {"model_cfg": cfg, "backbone": backbone.facts()})
    student = DualEncoder(clip, image, text, Similarity(clip), package, backbone.name)
    student.kept = "text"
    return student


def with_teachers_image(
    config: StudentConfig, teacher: DualEncoder, build: Callable[[dict[str, Any]], DualEncoder]
) -> DualEncoder:
    """The text tower that `config` names beside the image tower of `teacher`, which is used up.

    build: the named model with changes of its open_clip config.
    """
    refuse_no_side(config, teacher, "image")
    if teacher.package.library != "open_clip":
        raise UsageError(
            f"student.image: teacher, but teacher {teacher.name} is a {teacher.package.library} model, whose image tower fits into "
            f"no open_clip model beside {config.model}; give a student with both towers, or the teacher's open_clip folder"
        )
    name, weights = split(config)
    if folder_of(name) is not None or weights is not None:
        raise UsageError(
            f"student.image: teacher takes the text tower of {config.model} with random weights only; name the architecture "
            "without a file, or drop student.image and set student.frozen: [image]"
        )
    theirs = teacher.package.config
    changes = {"embed_dim": theirs["embed_dim"], "vision_cfg": theirs["vision_cfg"]}
    own = build(changes | {"quick_gelu": theirs.get("quick_gelu", False)})
    own.native.visual = teacher.native.visual
    with torch.no_grad():
        own.similarity.copy_(teacher.similarity)
    student = adapt(
        own.native, own.tokenizer, teacher.size, teacher.image.mean, teacher.image.std, own.package.config, config.model,
        own.text.words,
    )  # fmt: skip
    student.kept = "image"
    return student


def refuse_no_side(config: StudentConfig, teacher: DualEncoder, side: str) -> None:
    """Raise UsageError for a teacher without that side."""
    if side not in teacher.shape.sides:
        raise UsageError(
            f"student.{side}: teacher, but teacher {teacher.name} has no {side} tower; give a student with both towers"
        )


def _visual(cfg: dict[str, Any]) -> nn.Module:
    from open_clip.model import _build_vision_tower

    return _build_vision_tower(cfg["embed_dim"], cfg["vision_cfg"], cfg.get("quick_gelu", False))


def _side(vision_cfg: dict[str, Any]) -> int:
    size = vision_cfg.get("image_size", 224)
    return int(size if isinstance(size, int) else size[0])
