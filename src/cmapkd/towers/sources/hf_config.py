"""Config of a Hugging Face folder, refused where it needs code, weights or files from outside the folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmapkd.core.errors import UsageError
from cmapkd.towers.sources.weights import read_config

TWO_TOWERS = {
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
    "chinese_clip": "ChineseCLIPModel",
    "altclip": "AltCLIPModel",
    "metaclip_2": "MetaClip2Model",
    "vision-text-dual-encoder": "VisionTextDualEncoderModel",
    "blip": "BlipForImageTextRetrieval",
}
BLIP = ("BlipForImageTextRetrieval", "BlipModel")  # the two classes that hold a projection for each encoder
OUTSIDE = {
    "auto_map": "code of its own, which is not run; convert it to a class of transformers",
    "quantization_config": "quantised weights, which cannot be trained or compared; give the float checkpoint",
    "checkpoint_path": "weights outside the folder; put them into model.safetensors",
    "pretrained_cfg_overlay": "weights outside the folder; put them into model.safetensors",
}


def model_type_of(folder: Path) -> str:
    """`model_type` of a folder's config.json."""
    return str(read_config(folder / "config.json").get("model_type"))


def hugging_face_config(folder: Path) -> Any:
    """The PreTrainedConfig of a folder, made from its config.json alone.

    Raises UsageError for a config that names code, weights or kernels outside the folder, and for an unknown model_type.
    """
    from transformers import CONFIG_MAPPING

    raw = read_config(folder / "config.json")
    refuse_outside(folder, raw)
    kind = str(raw.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise UsageError(
            f"{folder}: model_type '{kind}' in config.json is unknown to the installed transformers; "
            f"two-tower models that can be read: clip, {', '.join(TWO_TOWERS)}"
        )
    try:
        return CONFIG_MAPPING[kind].from_dict(raw)
    except Exception as error:  # each config class checks its own values
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{folder}: config.json is no {kind} config that transformers reads ({reason})") from None


def is_own_folder(folder: Path) -> bool:
    """Whether a folder holds a vision model of transformers beside an open_clip text tower, which `cmapkd.load` alone opens."""
    file = folder / "module_config.json"
    return file.is_file() and "vision_config" in (read_config(file).get("backbone") or {})


def two_tower_class(folder: Path, config: Any) -> str:
    """Name of the transformers class of a two-tower folder. Raises UsageError for any other model."""
    kind = config.model_type
    if kind not in TWO_TOWERS:
        raise UsageError(
            f"{folder}: model_type '{kind}' is no model of an image and a text tower; such are: clip, "
            f"{', '.join(TWO_TOWERS)}"
        )
    name = TWO_TOWERS[kind]
    declared = [str(each) for each in config.architectures or ()]
    if kind == "blip" and declared:
        name = next((each for each in declared if each in BLIP), "")
        if not name:
            raise UsageError(
                f"{folder}: {declared[0]} has no projections of its two encoders into one space; give a BLIP folder with "
                f"architectures {' or '.join(BLIP)}, such as blip-itm-base-coco"
            )
    return name


def refuse_outside(folder: Path, raw: dict[str, Any]) -> None:
    """Raise UsageError where a config.json would make transformers or timm open anything outside the folder."""
    if (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder}: holds an adapter of another model; merge it into the model and save that")
    for key, value in _entries(raw):
        if key in OUTSIDE and value:
            raise UsageError(f"{folder}: config.json has '{key}', so the model is {OUTSIDE[key]}")
        if "attn_implementation" in key and "/" in str(value):
            raise UsageError(f"{folder}: config.json asks for kernels of '{value}', a download; remove '{key}'")
        if key == "architecture" and (":" in str(value) or "/" in str(value)):
            raise UsageError(
                f"{folder}: timm architecture '{value}' is a place, not a name; name the architecture alone"
            )
        if key in ("use_pretrained_backbone", "pretrained") and value is True:
            raise UsageError(f"{folder}: config.json has {key}: true, a download; set it to false")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All key-value pairs of nested objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)
