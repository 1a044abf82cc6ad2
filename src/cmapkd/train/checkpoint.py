"""Checkpoints: generations `step-00000120/` of tensors.safetensors, state.json and a MANIFEST.json written last."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError
from cmapkd.core.log import say

SCHEMA = 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "MANIFEST.json"
GENERATION = re.compile(r"step-(\d{8,})")
CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, object], keep: int) -> Path:
    """Commit a generation and delete older ones but the newest `keep` in all. Raises DiskError, older ones intact.

    state: what JSON can say (tuples come back as lists). Tensors are written one by one, no second copy of them made.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{final.name}.tmp.{os.getpid()}"
    text = json.dumps(state).encode()
    size = sum(tensor.nbytes for tensor in tensors.values())
    try:
        fsio.make_folder(temporary)
        hashes = {
            TENSORS: fsio.write_bytes(temporary / TENSORS, serialised(tensors), size),
            STATE: fsio.write_bytes(temporary / STATE, text),
        }
        facts = {name: ((temporary / name).stat().st_size, sha256) for name, sha256 in hashes.items()}
        fsio.write_bytes(temporary / MANIFEST, manifest_bytes(step, facts))
        fsio.commit_dir(temporary, final)
    except BaseException:
        fsio.discard(temporary)
        raise
    # Later steps may be there: corrupt ones that `latest` passed over. They are evidence, and no reason to delete this.
    there = generations(folder)
    for old in there[: max(0, there.index(final) + 1 - keep)]:
        fsio.retire_dir(old)
    return final


def latest(folder: Path) -> Path | None:
    """The newest generation whose manifest and hashes hold; a corrupt one is named and passed over, never deleted."""
    for path in reversed(generations(folder)):
        try:
            verify(path)
            return path
        except IntegrityError as error:
            say(f"warning: {error}; trying the generation before it")
    return None


def load_generation(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, state); the very bytes that were verified are what is loaded. Raises IntegrityError."""
    found = {}
    for name in (TENSORS, STATE):
        if not (path / name).is_file():
            raise IntegrityError(f"checkpoint {path}: {name} is missing")
        found[name] = (path / name).read_bytes()
    _agree(path, {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in found.items()})
    try:
        return load(found[TENSORS]), json.loads(found[STATE])
    except (SafetensorError, ValueError) as error:
        raise IntegrityError(
            f"checkpoint {path}: cannot be parsed ({error}); it was not written by this tool"
        ) from None


def verify(path: Path) -> None:
    """Check a generation's files against its manifest, reading them in pieces. Raises IntegrityError."""
    found = {}
    for name in (TENSORS, STATE):
        if not (path / name).is_file():
            raise IntegrityError(f"checkpoint {path}: {name} is missing")
        found[name] = ((path / name).stat().st_size, fsio.sha256_file(path / name))
    _agree(path, found)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, object]]:
    """An optimizer's state as flat tensors `INDEX/NAME`, and as JSON its groups and what of the state is no tensor."""
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            (tensors if isinstance(value, Tensor) else plain)[f"{index}/{name}"] = value
    return tensors, {"groups": state["param_groups"], "plain": plain}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: dict[str, object]) -> None:
    """The reverse of `optimizer_tensors`, to the bit. Raises IntegrityError when it was another optimizer's."""
    slots: dict[int, dict[str, object]] = {}
    for key, value in {**tensors, **groups.get("plain", {})}.items():  # type: ignore[dict-item]
        index, name = key.split("/", 1)
        slots.setdefault(int(index), {})[name] = value
    # JSON has no tuples: what is one in the optimizer (betas) becomes one again.
    stored = [
        {name: tuple(value) if isinstance(now.get(name), tuple) else value for name, value in group.items()}
        for group, now in zip(groups["groups"], optimizer.param_groups, strict=False)  # type: ignore[call-overload]
    ]
    owned = [len(group["params"]) for group in optimizer.param_groups]
    if [len(group["params"]) for group in groups["groups"]] != owned:  # type: ignore[union-attr, attr-defined]
        raise IntegrityError(
            f"checkpoint's optimizer has other parameter groups than this run's ({owned}); it is of another model or method"
        )
    optimizer.load_state_dict({"state": slots, "param_groups": stored})


def generations(folder: Path) -> list[Path]:
    """All committed generations, corrupt ones too, by step."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := GENERATION.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def serialised(tensors: dict[str, Tensor]) -> Iterator[Any]:
    """The safetensors format in pieces: header length, header, then each tensor's bytes, widest dtypes first."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, offset = {}, 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in CODES:
            raise ValueError(f"tensor {name} has dtype {tensor.dtype}, which checkpoints do not hold")
        end = offset + tensor.nbytes
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        if len(flat):
            yield flat.view(torch.uint8).numpy().data


def manifest_bytes(step: int, facts: dict[str, tuple[int, str]]) -> bytes:
    """Contents of MANIFEST.json for a step and its files' (bytes, SHA-256)."""
    files = {name: {"bytes": size, "sha256": sha256} for name, (size, sha256) in facts.items()}
    return fsio.json_bytes({"schema": SCHEMA, "step": step, "files": files})


def _agree(path: Path, facts: dict[str, tuple[int, str]]) -> None:
    """Raise IntegrityError unless the manifest is to the byte what would be written for these files."""
    try:
        raw = (path / MANIFEST).read_bytes()
        stated = json.loads(raw)
        named = GENERATION.fullmatch(path.name)
        if raw == manifest_bytes(int(named[1]) if named else int(stated["step"]), facts):
            return
        wrong = [n for n, (size, sha) in facts.items() if stated["files"][n] != {"bytes": size, "sha256": sha}]
    except (OSError, ValueError, KeyError, TypeError):
        raise IntegrityError(f"checkpoint {path}: {MANIFEST} is missing or unreadable") from None
    raise IntegrityError(
        f"checkpoint {path}: {wrong[0] if wrong else MANIFEST} differs from what was written (a flipped bit, a torn "
        "write, or another step's file)"
    )
