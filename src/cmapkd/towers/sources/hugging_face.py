"""Models of Hugging Face folders (config.json with safetensors): two towers, or a vision model alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from cmapkd.core.errors import UsageError
from cmapkd.towers.adapt import image_tower, text_tower
from cmapkd.towers.dual import DualEncoder, Package
from cmapkd.towers.families.image_hf import ImageHalf
from cmapkd.towers.families.text_hf import TextHalf
from cmapkd.towers.no_text import image_only
from cmapkd.towers.protocols import ImageTower, TextTower
from cmapkd.towers.similarity import Similarity
from cmapkd.towers.sources.hf_clip import from_hugging_face
from cmapkd.towers.sources.hf_config import BLIP, TWO_TOWERS, hugging_face_config, model_type_of, two_tower_class
from cmapkd.towers.sources.hf_images import image_facts, vision_facts
from cmapkd.towers.sources.hf_weights import RANDOM, load_pretrained, stored_tensor
from cmapkd.towers.sources.open_clip import adapted, build
from cmapkd.towers.sources.weights import load_strict, read_config
from cmapkd.towers.tokens.chosen import hugging_face_tokenizer
from cmapkd.towers.tokens.tokenizer import from_hugging_face as folder_tokenizer

Pooled = Literal["pooler", "first"]
Tower = TypeVar("Tower", ImageTower, TextTower)
POSITIONS = ("position_embeddings", "position_embedding")
LONGEST = 512  # token ids of a text, for models without a bound of their own


@dataclass(frozen=True)
class Layout:
    """Names of the parts of a two-tower class, and the vector that each projection reads, as get_image_features and
    get_text_features take it (BLIP: as forward with use_itm_head=False)."""

    image_projection: str | None = "visual_projection"
    text_projection: str | None = "text_projection"
    image_pooled: Pooled = "pooler"
    text_pooled: Pooled = "pooler"
    text: str = "text_model"


LAYOUTS = {
    "SiglipModel": Layout(None, None),
    "Siglip2Model": Layout(None, None),
    "ChineseCLIPModel": Layout(text_pooled="first"),
    "AltCLIPModel": Layout(text_pooled="first"),
    "MetaClip2Model": Layout(),
    "VisionTextDualEncoderModel": Layout(),
    "BlipModel": Layout(),
    "BlipForImageTextRetrieval": Layout("vision_proj", "text_proj", "first", "first", "text_encoder"),
}
TEMPERATURE = 0.07  # BLIP's retrieval class keeps no scale; this is the one that its training began with


def folder_model(folder: Path, name: str, words: int, weights: Path | None = None) -> DualEncoder:
    """The model of a Hugging Face folder of two towers; a CLIPModel becomes an open_clip model.

    weights: Path("random") for random weights. Raises UsageError for anything but two towers of known parts.
    """
    if model_type_of(folder) == "clip":
        return _as_open_clip(folder, name, words)
    config = hugging_face_config(folder)
    cls, layout = _class(two_tower_class(folder, config)), LAYOUTS[two_tower_class(folder, config)]
    facts = image_facts(folder, config)
    with quiet():
        native = _built(cls, config, folder, weights)
    image = ImageHalf(native.vision_model, _part(native, layout.image_projection), layout.image_pooled)
    text = TextHalf(getattr(native, layout.text), _part(native, layout.text_projection), layout.text_pooled)
    tokenizer = folder_tokenizer(folder, context_of(text.text, folder))
    return DualEncoder(
        native,
        _read(lambda: image_tower(image, facts.size, facts.mean, facts.std), folder),
        _read(lambda: text_tower(text, tokenizer, words), folder),
        Similarity(native),
        Package("transformers", {"class": cls.__name__, "preprocessor": facts.preprocessor}),
        name,
    )


def image_model(folder: Path) -> ImageTower:
    """The image tower of a folder: of a vision model alone (DINOv2, ViT, Swin, ConvNeXt, timm), or of two towers."""
    if model_type_of(folder) in ("clip", *TWO_TOWERS):
        return folder_model(folder, str(folder), 1).image
    return vision_model(folder, str(folder)).image


def vision_model(folder: Path, name: str, size: int | None = None, weights: Path | None = None) -> DualEncoder:
    """A vision model alone as a teacher of images: its final embedding is the model's pooled vector, else the class token
    after the last norm, else the mean.

    size: side of the images in pixels, for a model whose positions can be interpolated, or that has none.
    Raises UsageError for a model of anything but images.
    """
    config = hugging_face_config(folder)
    with quiet():
        vision, missing = vision_part(folder, config, weights)
    facts = vision_facts(folder, config, name, size)
    if any(key.startswith("pooler.") for key in missing):
        vision.pooler = None
    half = ImageHalf(vision)
    package = Package("transformers", {"class": type(vision).__name__, "preprocessor": facts.preprocessor})
    return image_only(_read(lambda: image_tower(half, facts.size, facts.mean, facts.std), folder), package, name)


def context_of(text: nn.Module, folder: Path) -> int:
    """Number of token ids of a text: as many as the model has positions and its tokenizer allows, at most LONGEST."""
    places = next((m for name, m in text.named_modules() if name.endswith(POSITIONS)), None)
    # RoBERTa counts positions from behind that of its padding.
    offset = 0 if places is None or places.padding_idx is None else places.padding_idx + 1
    most = LONGEST if places is None else places.num_embeddings - offset
    settings = folder / "tokenizer_config.json"
    stated = read_config(settings).get("model_max_length") if settings.is_file() else None
    return int(min(most, stated or LONGEST, LONGEST))


def _as_open_clip(folder: Path, name: str, words: int) -> DualEncoder:
    """A CLIPModel folder as an open_clip model, which can inherit and be exported to both libraries."""
    model_cfg, state, mean, std = from_hugging_face(folder)
    clip = build(model_cfg)
    load_strict(clip, state, folder, name)
    tokenizer = hugging_face_tokenizer(folder, model_cfg["text_cfg"]["context_length"])
    return adapted(clip, tokenizer, model_cfg, name, words, mean, std)


def _built(cls: Any, config: Any, folder: Path, weights: Path | None) -> Any:
    """The whole model in float32, with the folder's weights or random ones."""
    spare = ("logit_scale",) if cls.__name__ == BLIP[0] else ()
    if weights is not None and str(weights) == RANDOM:
        native = cls._from_config(config, dtype=torch.float32)
    else:
        native, _ = load_pretrained(cls, config, folder, spare=spare)
    if spare:
        stored = None if weights is not None else stored_tensor(folder, "logit_scale")
        native.logit_scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)) if stored is None else stored)
    native.config._name_or_path = ""  # of the folder that it was read from
    return native


def vision_part(folder: Path, config: Any, weights: Path | None) -> tuple[Any, set[str]]:
    """(the vision model of a folder without a text tower, its missing tensors), and no classifier that stands on it."""
    from transformers import MODEL_MAPPING

    found = MODEL_MAPPING.get(type(config), None)
    cls = found[0] if isinstance(found, tuple | list) else found
    if cls is None or getattr(cls, "main_input_name", "") != "pixel_values":
        raise UsageError(
            f"{folder}: model_type '{config.model_type}' is no model of an image and a text tower, and none of images; of two "
            f"towers are: clip, {', '.join(TWO_TOWERS)}"
        )
    if weights is not None and str(weights) == RANDOM:
        return cls._from_config(config, dtype=torch.float32), set()
    return load_pretrained(cls, config, folder, ("pooler.",), ("classifier", "head.", "fc.", "decoder."))


def _class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def _part(native: Any, name: str | None) -> nn.Module | None:
    return None if name is None else getattr(native, name)


def _read(build: Callable[[], Tower], folder: Path) -> Tower:
    """An adapter; a model that fails on an empty image or a short text is refused."""
    try:
        return build()
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"{folder}: the model cannot be read ({type(error).__name__}: {reason})") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block transformers prints neither bars nor tables of loaded weights: refusals say what matters."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
