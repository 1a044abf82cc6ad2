"""Checkpoints: generations `step-00000120/` of tensors.safetensors, state.json and a MANIFEST.json written last."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load
from safetensors.torch import save as serialise
from torch import Tensor

from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError
from cmapkd.core.log import say

SCHEMA = 1


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, object], keep: int) -> Path:
    """Commit a generation and retire all but the newest `keep`. Raises DiskError; older generations are then intact."""
    final = folder / f"step-{step:08d}"
    temporary = folder / f"step-{step:08d}.tmp.{os.getpid()}"
    try:
        temporary.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fsio.disk_error(temporary, error) from None
    files = {
        "tensors.safetensors": serialise({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}),
        "state.json": json.dumps(state).encode(),
    }
    manifest = {"schema": SCHEMA, "step": step, "files": {}}
    for name, data in files.items():
        fsio.write_bytes(temporary / name, data)
        manifest["files"][name] = {"bytes": len(data), "sha256": _sha(data)}  # type: ignore[index]
    fsio.write_json(temporary / "MANIFEST.json", manifest)
    fsio.commit_dir(temporary, final)
    for old in _generations(folder)[:-keep]:
        fsio.retire_dir(old)
    return final


def latest(folder: Path) -> Path | None:
    """The newest generation whose manifest and hashes hold; a corrupt one is named and passed over, never deleted."""
    for path in reversed(_generations(folder)):
        try:
            verify(path)
            return path
        except IntegrityError as error:
            say(f"warning: {error}; trying the generation before it")
    return None


def load_generation(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, state), verified. Raises IntegrityError."""
    files = verify(path)
    return load(files["tensors.safetensors"]), json.loads(files["state.json"])


def verify(path: Path) -> dict[str, bytes]:
    """The generation's files, each with the bytes and hash that its manifest states."""
    try:
        manifest = json.loads((path / "MANIFEST.json").read_bytes())
        stated = {str(k): (int(v["bytes"]), str(v["sha256"])) for k, v in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(f"checkpoint {path}: MANIFEST.json is missing or unreadable") from None
    found = {}
    for name, (size, sha) in stated.items():
        data = (path / name).read_bytes() if (path / name).is_file() else b""
        if len(data) != size or _sha(data) != sha:
            raise IntegrityError(f"checkpoint {path}: {name} differs from its manifest (a flipped bit or a torn write)")
        found[name] = data
    if not {"tensors.safetensors", "state.json"} <= set(found):
        raise IntegrityError(f"checkpoint {path}: its manifest does not list tensors.safetensors and state.json")
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, object]]:
    """An optimizer's state as flat tensors and the scalars of its groups."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}/{name}": torch.as_tensor(v) for index, slots in state["state"].items() for name, v in slots.items()
    }
    return tensors, {"groups": state["param_groups"]}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: dict[str, object]) -> None:
    """The reverse, to the bit."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split("/", 1)
        slots.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": groups["groups"]})


def _generations(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.startswith("step-") and p.name.removeprefix("step-").isdigit())


def _sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
