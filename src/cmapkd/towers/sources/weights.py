"""Checkpoint files as tables of tensors: safetensors, whole or in shards, torch files, TorchScript archives; no code of a file is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.towers.sources.torchscript import is_torchscript, torchscript_state

TABLES = ("state_dict", "model", "model_state_dict", "module")  # where a training checkpoint holds the model
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
SCALARS = ("logit_scale", "logit_bias")  # a number in some checkpoints, a list of one number in others
OPENAI = ("input_resolution", "context_length", "vocab_size")


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint, without prefixes of wrappers: safetensors, an index of shards, a torch file or TorchScript archive.

    A training checkpoint gives the tensors of its model. Raises UsageError for what holds more than tensors.
    """
    refuse_no_file(path)
    if path.name.endswith(".safetensors.index.json"):
        state = _read_shards(path)
    elif path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif is_torchscript(path):
        state = torchscript_state(path)
    else:
        state = _table(_read_torch(path), path)
    return _unwrapped(state, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except Exception as error:
        raise UsageError(f"weights {path}: not a readable safetensors file ({error}); is it cut off?") from None


def _read_shards(index: Path) -> dict[str, Tensor]:
    """All tensors of the shards that an index names, each in the shard it names. Raises UsageError where one is missing."""
    table = read_config(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise UsageError(
            f"weights {index}: has no weight_map from tensors to shards; it is not an index of safetensors"
        )
    if outside := [name for name in table.values() if Path(name).name != name]:
        raise UsageError(f"weights {index}: names shard {outside[0]} outside its own folder; put all shards beside it")
    state: dict[str, Tensor] = {}
    for name in sorted(set(table.values())):
        refuse_no_file(index.parent / name)
        state |= _read_safetensors(index.parent / name)
    if missing := sorted(set(table) - set(state)):
        raise UsageError(
            f"weights {index}: its shards lack {len(missing)} tensors (first: {missing[0]}); fetch them again"
        )
    return {key: state[key] for key in table}


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UsageError(
            f"weights {path}: no table of tensors alone ({reason}…); nothing in it was run; "
            "give a safetensors file or a state_dict saved by torch"
        ) from None


def _table(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The table of tensors in what a torch file holds, such as the model beside an optimizer's state."""
    places = [loaded, *(loaded.get(key) for key in TABLES)] if isinstance(loaded, dict) else []
    for found in places:
        if isinstance(found, dict) and found and all(isinstance(value, Tensor) for value in found.values()):
            return dict(found)
    raise UsageError(f"weights {path}: holds no plain table of tensors; export the model's state_dict")


def _unwrapped(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state under the names of the model itself. Raises UsageError where two tensors would have one name."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        while name.startswith(WRAPPERS):
            name = name.partition(".")[2]
        name = name.replace("._orig_mod.", ".")  # a part that was compiled alone
        if name in out:
            raise UsageError(
                f"weights {path}: two tensors are {name} without prefixes; export the state_dict of one model"
            )
        out[name] = value
    return out


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder. Raises UsageError for anything but a JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(
            f"{path}: not readable as JSON ({' '.join(str(error).split())[:80]}); is it cut off?"
        ) from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: holds no JSON object; it is not a model's config")
    return found


def file_hash(path: Path) -> str:
    """SHA-256 of a weights file."""
    refuse_no_file(path)
    return fsio.sha256_file(path)


def refuse_no_file(path: Path) -> None:
    """Raise UsageError where a weights file does not exist or is a folder."""
    if not path.exists():
        raise UsageError(f"weights {path}: no such file")
    if path.is_dir():
        raise UsageError(f"weights {path}: is a folder; give the file in it, or model: local-dir:{path}")


def is_openai(path: Path | None, state: dict[str, Tensor]) -> bool:
    """Whether a checkpoint is OpenAI's: those hold three extra scalars, and were trained with QuickGELU."""
    return path is not None and set(OPENAI) <= set(state)


def load_strict(clip: torch.nn.Module, state: dict[str, Tensor], where: Path | None, name: str) -> None:
    """Load every tensor of `state` into the model, half precision as float32, none reshaped but a scalar logit_scale or logit_bias.

    Raises UsageError where any is missing, unexpected or of another shape or kind of number.
    """
    wanted = clip.state_dict()
    given = {
        key: value
        for key, value in state.items()
        if key in wanted or (key not in OPENAI and key.rpartition(".")[2] != "position_ids")
    }
    for key in SCALARS:
        if key in given and key in wanted and given[key].numel() == wanted[key].numel() == 1:
            given[key] = given[key].reshape(wanted[key].shape)
    missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    wrong = [key for key in wanted if key in given and given[key].shape != wanted[key].shape]
    kinds = [
        key for key in wanted if key in given and given[key].is_floating_point() != wanted[key].is_floating_point()
    ]
    if not (missing or extra or wrong or kinds):
        clip.load_state_dict(given)
        return
    found = {
        "missing": missing,
        "unexpected": extra,
        "of another shape": [f"{k} is {list(given[k].shape)}, the model's {list(wanted[k].shape)}" for k in wrong],
        "of another kind of number": [f"{k} is {given[k].dtype}" for k in kinds],
    }
    shown = "; ".join(f"{label} {len(keys)} (first: {keys[0]})" for label, keys in found.items() if keys)
    way_out = "name the architecture they are of"
    if wrong and all(key.endswith(("positional_embedding", "pos_embed", "position_embedding.weight")) for key in wrong):
        way_out = "they are of another image size or context length: set image_size to read images of another size"
    raise UsageError(f"weights {where} are not of model '{name}': tensors {shown}; {way_out}")
