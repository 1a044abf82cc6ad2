"""Load a DualEncoder from a TowerConfig: named architectures, folders of open_clip and Hugging Face, checkpoint files; no network."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cmapkd.config.schema import StudentConfig, TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.images_alone import module_alone, of_width, refuse_texts, student_of_images
from cmapkd.towers.joined import own_folder, with_teachers_image, with_teachers_text
from cmapkd.towers.module_folder import named_module
from cmapkd.towers.named import MODULE_CONFIG, folder_of, refuse_no_folder, split
from cmapkd.towers.sides import has_text, images_alone, kept_side
from cmapkd.towers.sources import hugging_face, module, open_clip, timm, torchvision
from cmapkd.towers.sources.hf_config import is_own_folder


def load_tower(
    config: TowerConfig,
    captions: Iterable[str] = (),
    tokenizer_folder: Path | None = None,
    teacher: TowerConfig | None = None,
    words: int = 24,
) -> DualEncoder:
    """The model that `config` names, with its weights if it names some, else randomly initialised.

    captions: texts that a `train:N` tokenizer is trained on; tokenizer_folder: where that tokenizer is written; teacher:
    the model whose tokenizer `tokenizer: teacher` refers to, and whose tower a student may keep; words: length of L1.
    Raises UsageError when the name, folder or weights cannot be used.
    """
    if (side := kept_side(config, teacher)) is not None:
        return _joined(side, config, captions, tokenizer_folder, teacher, words)
    if isinstance(config, StudentConfig) and images_alone(config, teacher):
        width = _built(teacher, words).shape.embedding
        if folder_of(split(config)[0]) is not None:
            refuse_texts(config)
            return of_width(load_tower(TowerConfig(model=config.model)), width)
        return student_of_images(config, width)
    architecture, weights = split(config)
    folder = folder_of(architecture)
    if architecture.startswith(timm.SCHEME):
        return timm.image_model(architecture, weights)
    if architecture.startswith(torchvision.SCHEME):
        return module_alone(torchvision.backbone(architecture, weights), 0)
    if architecture.startswith(module.SCHEME):
        raise UsageError(f"model {config.model}: a module of your own is a student, not a teacher; give it as student=")
    if folder is None:
        return open_clip.named_model(config, captions, tokenizer_folder, teacher, words)
    refuse_no_folder(folder, config.model)
    if (folder / "open_clip_config.json").is_file() and not config.model.startswith("hf:"):
        return open_clip.folder_model(folder, config.model, words, config.image_size)
    if timm.is_folder(folder):
        return timm.folder_model(folder, config.model)
    if (folder / "config.json").is_file():
        if not has_text(config):
            return hugging_face.vision_model(folder, config.model, config.image_size, config.weights)
        if config.image_size is not None:
            raise UsageError(f"model {config.model}: image_size is for models of open_clip and timm; leave it out")
        return hugging_face.folder_model(folder, config.model, words, config.weights)
    if is_own_folder(folder):
        return own_folder(folder, config.model)
    if (folder / MODULE_CONFIG).is_file():
        return named_module(folder, config.model)
    raise UsageError(
        f"model {config.model}: {folder} holds neither open_clip_config.json nor a Hugging Face config.json"
    )


def _built(teacher: TowerConfig | None, words: int) -> DualEncoder:
    """The teacher, to build a student after; what it draws, where it has no weights, is given back."""
    assert teacher is not None
    with torch.random.fork_rng():
        return load_tower(teacher, words=words)


def _joined(
    side: str,
    config: Any,
    captions: Iterable[str],
    tokenizer_folder: Path | None,
    teacher: TowerConfig | None,
    words: int,
) -> DualEncoder:
    """A student that keeps one side of the teacher."""
    theirs = _built(teacher, words)
    if side == "text":
        return with_teachers_text(config, theirs, words)
    build = partial(open_clip.named_model, config, captions, tokenizer_folder, teacher, words)
    return with_teachers_image(config, theirs, build)
