"""Weights of a Hugging Face folder, loaded strictly into the class of transformers that they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cmapkd.core.errors import UsageError
from cmapkd.towers.sources.weights import read_config

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
RANDOM = "random"  # student.weights of a folder whose config alone is used


def hugging_face_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder's model: one, or the shards that its index names; none without weights."""
    if (single := folder / SINGLE).is_file():
        return [single]
    if not (index := folder / INDEX).is_file():
        return []
    table = read_config(index).get("weight_map")
    names = list(table.values()) if isinstance(table, dict) else []
    wrong = [
        name for name in names if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file()
    ]
    if wrong or not names:
        what = f"shard {wrong[0]}" if wrong else "a weight_map"
        raise UsageError(f"weights {index}: {what} is not among the folder's files; is the download complete?")
    return [folder / name for name in sorted(set(names))]


def load_pretrained(
    cls: Any, config: Any, folder: Path, tolerated: tuple[str, ...] = (), spare: tuple[str, ...] = ()
) -> tuple[Any, set[str]]:
    """(a model of class `cls` in float32 with the weights of `folder`, its missing tensors); nothing is read outside it.

    tolerated: beginnings of names of tensors that may be missing; spare: of tensors that the class has no place for.
    Raises UsageError where any other tensor is missing, unexpected or of another size.
    """
    if not hugging_face_files(folder):
        raise UsageError(
            f"{folder}: holds config.json but no {SINGLE}; pickled weights are not read, convert them first; a student that "
            f"begins at random says so by student.weights: {RANDOM}"
        )
    try:
        model, told = cls.from_pretrained(
            str(folder), config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # transformers and safetensors raise OSError, ValueError and errors of their own
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"weights {folder}: cannot be read as {cls.__name__} ({reason}); is a file cut off?") from None
    missing = sorted(key for key in told["missing_keys"] if not key.startswith(tolerated or ("\0",)))
    extra = sorted(key for key in told["unexpected_keys"] if not key.startswith(spare or ("\0",)))
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in told["mismatched_keys"])
    if missing or extra or wrong:
        shown = "; ".join(
            f"{label} {len(keys)} (first: {keys[0]})"
            for label, keys in (("missing", missing), ("unexpected", extra), ("of another shape", wrong))
            if keys
        )
        raise UsageError(f"weights {folder} are not of a {cls.__name__}: tensors {shown}; name the folder they are of")
    return model.float(), set(told["missing_keys"])


def stored_tensor(folder: Path, name: str) -> torch.Tensor | None:
    """One tensor of a folder's weights by its stored name, None where there is none."""
    from safetensors import safe_open

    for path in hugging_face_files(folder):
        with safe_open(str(path), "pt") as file:
            if name in file.keys():  # noqa: SIM118
                return file.get_tensor(name).float()
    return None
