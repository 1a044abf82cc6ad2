"""Size, mean and std of the images that a Hugging Face folder's model reads, from its config files alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmapkd.core.errors import UsageError
from cmapkd.towers.sources.weights import read_config

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HALVED = ("siglip", "siglip2", "siglip_vision_model", "siglip2_vision_model", "vit", "deit")
LIKE_CLIP = ("clip", "clip_vision_model", "chinese_clip", "altclip", "metaclip_2", "blip")
# Models that read any size whatever `image_size` says: positions that are resized, or none.
FREE = ("dinov2", "dinov2_with_registers", "dinov3_vit", "convnext", "convnextv2", "dinov3_convnext", "resnet", "regnet",
        "efficientnet")  # fmt: skip


@dataclass(frozen=True)
class ImageFacts:
    """size: side in pixels; mean, std: per colour channel, of pixels in 0..1; preprocessor: the file's content, {} without one."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessor: dict[str, Any]


def image_facts(folder: Path, config: Any) -> ImageFacts:
    """Size, mean and std of a folder's model; the family's where the folder does not say.

    Raises UsageError for images that are not square.
    """
    given = preprocessor(folder)
    vision = getattr(config, "vision_config", config)
    mean, std = _normalisation(given, vision, config.model_type)
    size = _fixed_size(vision, folder) or _given_size(given, folder) or _stated_size(vision, folder) or 224
    return ImageFacts(size, mean, std, given)


def vision_facts(folder: Path, config: Any, name: str, size: int | None) -> ImageFacts:
    """`image_facts` of a vision model alone, at another image size where `size` is given. Raises UsageError for a fixed one."""
    facts = image_facts(folder, config)
    if size is not None and config.model_type not in FREE:
        raise UsageError(
            f"model {name}: a {config.model_type} reads images of {facts.size} pixels only; leave image_size out, or name the model "
            "of timm (timm:NAME)"
        )
    return facts if size is None else replace(facts, size=size)


def preprocessor(folder: Path) -> dict[str, Any]:
    """The content of preprocessor_config.json, or the image part of processor_config.json; {} where there is neither."""
    if (own := folder / "preprocessor_config.json").is_file():
        return read_config(own)
    if (whole := folder / "processor_config.json").is_file():
        return read_config(whole).get("image_processor") or {}
    return {}


def _normalisation(given: dict[str, Any], vision: Any, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of pixels in 0..1, whatever factor the processor multiplies pixels by."""
    if given.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    elif "image_mean" in given and "image_std" in given:
        mean, std = given["image_mean"], given["image_std"]
    elif cfg := getattr(vision, "pretrained_cfg", None):  # of timm
        mean, std = cfg.get("mean", IMAGENET[0]), cfg.get("std", IMAGENET[1])
    else:
        mean, std = HALF if kind in HALVED else CLIP if kind in LIKE_CLIP else IMAGENET
    factor = 255 * given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 255.0
    factor = 1.0 if abs(factor - 1) < 1e-6 else factor
    mean, std = ((value,) * 3 if isinstance(value, int | float) else tuple(value) for value in (mean, std))
    return tuple(float(m) / factor for m in mean), tuple(float(s) / factor for s in std)


def _fixed_size(vision: Any, folder: Path) -> int | None:
    """The one size of a tower with learnt positions; None for one that reads several sizes or does not say."""
    if patches := getattr(vision, "num_patches", None):  # of SigLIP 2: positions of a square grid
        side = round(patches**0.5)
        if side * side != patches:
            raise UsageError(f"{folder}: num_patches {patches} is no square, but images here are square")
        return side * vision.patch_size
    return None if vision.model_type in FREE else _stated_size(vision, folder)


def _stated_size(vision: Any, folder: Path) -> int | None:
    if cfg := getattr(vision, "pretrained_cfg", None):  # of timm: [channels, height, width]
        size: Any = (getattr(vision, "model_args", None) or {}).get("img_size") or cfg.get("input_size", (3, 224, 224))[
            1:
        ]
    else:
        size = getattr(vision, "image_size", None)
    return None if size is None else _square(size, folder)


def _given_size(given: dict[str, Any], folder: Path) -> int | None:
    """Size of the processor's crop, else of its resized images."""
    crop = given.get("crop_size") if given.get("do_center_crop", True) else None
    size = crop or given.get("size")
    return None if size is None else _square(size, folder)


def _square(size: Any, folder: Path) -> int:
    """S of a size given as S, [H, W], {height, width}, {shortest_edge} or {longest_edge}."""
    if isinstance(size, dict):
        sides = [size[key] for key in ("height", "width", "shortest_edge", "longest_edge") if size.get(key)]
    else:
        sides = [size] if isinstance(size, int) else list(size)
    if not sides or len(set(sides[:2])) > 1:
        raise UsageError(f"{folder}: its images have the size {size}, but only square images are read here")
    return int(sides[0])
