"""Read a checkpoint file: safetensors, torch files (tensors only), OpenAI's TorchScript archives."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint file: safetensors, a torch file (weights only), or OpenAI's TorchScript archive."""
    refuse_no_file(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(str(path))
        except Exception as error:
            raise UsageError(f"weights {path}: not a readable safetensors file ({error}); is it cut off?") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the deprecation of TorchScript is no concern of a user with such a file
        loaded = _read_torch(path)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"weights {path}: holds no plain table of tensors; export the model's state_dict")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        try:
            # OpenAI publishes TorchScript archives; reading their tensors runs no Python code.
            return torch.jit.load(str(path), map_location="cpu").state_dict()
        except Exception as error:
            reason = " ".join(str(error).split())[:80] or type(error).__name__
            raise UsageError(
                f"weights {path}: neither tensors only nor a TorchScript archive ({reason}…); "
                "give a safetensors file or a state_dict saved by torch"
            ) from None


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
    return path is not None and {"input_resolution", "context_length", "vocab_size"} <= set(state)


def load_strict(clip: torch.nn.Module, state: dict[str, Tensor], where: Path | None, name: str) -> None:
    """Load every tensor of `state` into the model. Raises UsageError where any is missing, unexpected or of another size."""
    for key in ("input_resolution", "context_length", "vocab_size"):
        state.pop(key, None)
    wanted = clip.state_dict()
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    wrong = [key for key in wanted if key in state and state[key].numel() != wanted[key].numel()]
    if missing or extra or wrong:
        shown = "; ".join(
            f"{label} {len(keys)} (first: {keys[0]})"
            for label, keys in (("missing", missing), ("unexpected", extra), ("of another shape", wrong))
            if keys
        )
        raise UsageError(
            f"weights {where} are not of model '{name}': tensors {shown}; name the architecture they are of"
        )
    clip.load_state_dict({key: state[key].reshape(wanted[key].shape) for key in wanted})
