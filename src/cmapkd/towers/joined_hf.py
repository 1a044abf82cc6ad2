"""Students with the text tower of a Hugging Face teacher, and students whose image tower is a vision model of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.config.sources import StudentConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.adapt import adapt, image_tower, text_tower
from cmapkd.towers.dual import DualEncoder, Package
from cmapkd.towers.evaluating import evaluating
from cmapkd.towers.families.image_hf import ImageHalf
from cmapkd.towers.families.text_hf import TextHalf
from cmapkd.towers.similarity import Similarity
from cmapkd.towers.sources.hf_open_clip import LIKE_OPEN_CLIP, PROBE, as_open_clip
from cmapkd.towers.sources.hf_student import Vision, student_vision
from cmapkd.towers.sources.hf_text import opened_text
from cmapkd.towers.sources.hugging_face import quiet

EXACT = 1e-5


def text_in_open_clip(teacher: DualEncoder, words: int) -> DualEncoder | None:
    """An open_clip model with the text tower of a transformers teacher, None where open_clip has no such tower."""
    if type(teacher.native).__name__ not in LIKE_OPEN_CLIP:
        return None
    found = as_open_clip(teacher, words)
    _refuse_other_texts(teacher, found.encode_texts(PROBE), found)
    return found


def dual_encoder(config: StudentConfig, teacher: DualEncoder, words: int) -> DualEncoder:
    """A VisionTextDualEncoderModel of the vision model that `config` names and the text tower of a transformers teacher.

    Raises UsageError for a teacher whose text embeddings that class does not give.
    """
    half: Any = teacher.text.native
    text, projection = opened_text(half, teacher.name)
    vision = student_vision(config)
    with quiet():
        native = _native(vision, text, projection)
    with torch.no_grad():
        native.logit_scale.copy_(teacher.native.logit_scale.reshape(()))  # type: ignore[union-attr, operator]
    facts = vision.facts
    image = ImageHalf(native.vision_model, native.visual_projection, "pooler")
    student = DualEncoder(
        native,
        image_tower(image, facts.size, facts.mean, facts.std),
        text_tower(TextHalf(native.text_model, native.text_projection), teacher.tokenizer, words),  # type: ignore[arg-type]
        Similarity(native),
        Package("transformers", {"class": type(native).__name__, "preprocessor": {}}),
        config.model,
    )
    student.kept = "text"
    ids, _ = teacher.tokenizer(PROBE)
    with torch.no_grad(), evaluating(student):
        mask = teacher.tokenizer.real(ids).long()
        given = native.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    _refuse_other_texts(teacher, nn.functional.normalize(given, dim=-1), student)
    return student


def beside_open_clip(
    config: StudentConfig, clip: nn.Module, tokenizer: Any, cfg: dict[str, Any], words: int
) -> DualEncoder:
    """A vision model of transformers beside an open_clip text tower, which neither library has a class for.

    Its folder is opened by `cmapkd.load` alone.
    """
    vision = student_vision(config)
    clip.visual = vision.half(cfg["embed_dim"])
    facts = vision.facts
    student = adapt(clip, tokenizer, facts.size, facts.mean, facts.std, cfg, config.model, words)
    kept = {
        "module": type(vision.model).__name__, "vision_config": vision.model.config.to_dict(), "width": vision.width,
        "image_size": facts.size, "mean": list(facts.mean), "std": list(facts.std),
    }  # fmt: skip
    student.package = Package("module", {"model_cfg": cfg, "backbone": kept})
    student.kept = "text"
    return student


def _native(vision: Vision, text: nn.Module, projection: Tensor) -> Any:
    """The whole model; its constructor draws new weights, so those of both parts are put back."""
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    kept = [{key: value.clone() for key, value in part.state_dict().items()} for part in (vision.model, text)]
    described: Any = (vision.model.config, text.config)
    described[0].hidden_size = vision.width
    described[1].hidden_size = projection.shape[1]
    config = VisionTextDualEncoderConfig.from_vision_text_configs(*described, projection_dim=projection.shape[0])
    native: Any = VisionTextDualEncoderModel(config, vision.model, text).float()  # type: ignore[arg-type]
    for part, state in zip((native.vision_model, native.text_model), kept, strict=True):
        part.load_state_dict(state)
    with torch.no_grad():
        native.text_projection.weight.copy_(projection)
    return native


def _refuse_other_texts(teacher: DualEncoder, given: Tensor, student: DualEncoder) -> None:
    """Raise UsageError where normalised embeddings of PROBE are not the teacher's."""
    apart = float((given - teacher.encode_texts(PROBE)).abs().max())
    if not apart <= EXACT:
        raise UsageError(
            f"student.text: teacher, but {type(student.native).__name__} gives the texts of teacher {teacher.name} other "
            f"embeddings (by {apart:.1e}); give a student with both towers"
        )
