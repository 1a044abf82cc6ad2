"""Image models of timm by name or folder: as a teacher or a student of images alone, and as the image tower of a CLIP-type student."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cmapkd.core.errors import UsageError, did_you_mean
from cmapkd.towers.adapt import image_tower
from cmapkd.towers.dual import DualEncoder, Package
from cmapkd.towers.no_text import image_only
from cmapkd.towers.sources.weights import load_strict, read_config, read_state

SCHEME = "timm:"
OWN = "cmapkd"  # key in config.json of a folder whose classifier is the map to a teacher's space


def timm_facts(name: str) -> dict[str, Any]:
    """Name, image size, mean and std of a timm model, read without building it.

    Raises UsageError for an unknown name and for a model of images that are not square.
    """
    import timm

    model = name.removeprefix(SCHEME)
    if not timm.is_model(model):
        hint = did_you_mean(model, timm.list_models())
        raise UsageError(f"model '{name}': timm has no model of that name{hint}; see timm.list_models()")
    found: Any = timm.get_pretrained_cfg(model, allow_unregistered=True)
    _, height, width = found.input_size
    if height != width:
        raise UsageError(f"model '{name}': reads images of {width}×{height} pixels, but they must be square here")
    return {"timm_model_name": model, "image_size": int(height), "mean": tuple(found.mean), "std": tuple(found.std)}


def image_model(name: str, weights: Path | None, embedding: int = 0) -> DualEncoder:
    """A timm model of images alone: its final embedding is the feature that its classifier would read.

    embedding: width to which the model's own classifier maps that feature; 0 without a map.
    """
    facts = timm_facts(name)
    visual = _without_texts(facts, embedding)
    load_trunk(visual.trunk, weights, name)
    return _image_only(visual, facts, embedding, name)


def is_folder(folder: Path) -> bool:
    """Whether a folder is timm's: its config.json names an architecture, and no model_type of transformers."""
    path = folder / "config.json"
    return path.is_file() and {"architecture", "model_type"} & set(read_config(path)) == {"architecture"}


def folder_facts(folder: Path) -> dict[str, Any]:
    """As `timm_facts`, of a folder, with the width that its classifier maps to, 0 for a classifier of labels."""
    config = read_config(folder / "config.json")
    facts, stated = timm_facts(str(config["architecture"])), config.get("pretrained_cfg", {})
    for key in ("mean", "std"):
        facts[key] = tuple(stated.get(key, facts[key]))
    return facts | {"embedding": int(config.get(OWN, {}).get("embedding", 0))}


def folder_model(folder: Path, name: str) -> DualEncoder:
    """The model of a timm folder (config.json, model.safetensors): a student of images alone, or any image model."""
    facts = folder_facts(folder)
    embedding, weights = facts.pop("embedding"), folder / "model.safetensors"
    visual = _without_texts(facts, embedding)
    if embedding:
        load_strict(visual.trunk, read_state(weights), weights, name)
    else:
        load_trunk(visual.trunk, weights, name)
    return _image_only(visual, facts, embedding, name)


def _without_texts(facts: dict[str, Any], embedding: int) -> Any:
    """open_clip's tower of a timm model whose classifier maps to `embedding` numbers, or that has none."""
    from open_clip.timm_model import TimmModel

    visual: Any = TimmModel(facts["timm_model_name"], 1, facts["image_size"], pool="", proj="linear")
    visual.head = nn.Identity()
    if embedding:
        visual.trunk.reset_classifier(embedding)
    return visual.float()


def _image_only(visual: nn.Module, facts: dict[str, Any], embedding: int, name: str) -> DualEncoder:
    tower = image_tower(visual, facts["image_size"], facts["mean"], facts["std"])
    return image_only(tower, Package("timm", {**facts, "embedding": embedding}), name)


def vision_cfg(name: str) -> dict[str, Any]:
    """The vision_cfg of open_clip for a timm model with a linear map to the joint space.

    The map is a layer behind the model's own pooled feature; where that is not the feature of its last stage, the model's classifier.
    """
    import timm

    facts = timm_facts(name)
    trunk: Any = timm.create_model(facts["timm_model_name"])
    plain = trunk.num_features == trunk.head_hidden_size
    return {
        "timm_model_name": facts["timm_model_name"],
        "timm_model_pretrained": False,
        "timm_pool": "" if plain else "avg",
        "timm_proj": "linear" if plain else "",
        "image_size": facts["image_size"],
    }


def load_trunk(trunk: nn.Module, weights: Path | None, name: str) -> None:
    """Load a file of weights, without the classifier; other layouts that timm knows of the model are converted.

    Raises UsageError where a tensor is missing, unexpected or of another size.
    """
    if weights is None:
        return
    state, wanted = read_state(weights), trunk.state_dict()
    heads: Any = getattr(trunk, "pretrained_cfg", {}).get("classifier") or ()
    dropped = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    own = {key: value for key, value in wanted.items() if dropped and key.startswith(dropped)}  # the map to the space
    if not set(wanted) - set(own) <= set(state):
        state = _converted(trunk, state)
    kept = {key: value for key, value in state.items() if key in wanted or not key.startswith(dropped)}
    load_strict(trunk, kept | own, weights, name)


def _converted(trunk: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint under timm's names, by the filter that timm has for the model."""
    convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return convert(dict(state), trunk)
    except Exception:  # a checkpoint of another model; what is missing is told by load_strict
        return state
