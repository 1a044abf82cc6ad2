"""Students of images alone, under a teacher of images alone: an image model with a linear map to the teacher's width."""

from __future__ import annotations

from cmapkd.config.sources import StudentConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.adapt import image_tower
from cmapkd.towers.dual import DualEncoder, Package
from cmapkd.towers.named import split
from cmapkd.towers.no_text import image_only
from cmapkd.towers.sources import module, timm, torchvision


def student_of_images(config: StudentConfig, width: int) -> DualEncoder:
    """The image model that `config` names, mapped to the `width` of the teacher's embeddings.

    Raises UsageError for settings of texts.
    """
    refuse_texts(config)
    name, weights = split(config)
    if name.startswith(timm.SCHEME):
        return timm.image_model(name, weights, width)
    if name.startswith(torchvision.SCHEME):
        return module_alone(torchvision.backbone(name, weights), width)
    return module_alone(module.backbone_of(name), width)


def of_width(student: DualEncoder, width: int) -> DualEncoder:
    """A student of a folder, whose map is trained already. Raises UsageError where it maps to another width."""
    if student.shape.embedding != width:
        raise UsageError(
            f"student.model {student.name}: gives embeddings of {student.shape.embedding} numbers, but the teacher's have {width}; "
            "name the model and its weights instead: timm:NAME:FILE"
        )
    return student


def module_alone(backbone: module.Backbone, width: int) -> DualEncoder:
    """A module alone with a linear map to embeddings of `width` numbers; for 0 its own embedding without a map."""
    visual = module.UserVisual(backbone, width)
    image = image_tower(visual, backbone.size, backbone.mean, backbone.std)
    package = Package("module", {"embedding": width, "backbone": backbone.facts()})
    return image_only(image, package, backbone.name)


def refuse_texts(config: StudentConfig) -> None:
    """Raise UsageError for settings that need a text tower, or leave nothing of an image tower to learn."""
    wrong = "frozen" if config.frozen else "tokenizer" if config.tokenizer not in ("own", "teacher") else None
    if wrong is not None:
        raise UsageError(
            f"student.{wrong} is {getattr(config, wrong)!r}, but {config.model} under this teacher is an image tower alone; drop it"
        )
