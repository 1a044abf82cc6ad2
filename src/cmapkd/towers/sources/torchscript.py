"""Tensors of a TorchScript archive, read from its zip without running any of the code in it.

OpenAI publishes CLIP in this format. torch.jit.load would run the archive's own `__setstate__`; here the few opcodes that
TorchScript writes are followed by hand (pickletools only names them), classes are inert tables of attributes, and bytes
become tensors. Parameters and buffers are told from other attributes by the lists in the archive's code, read as text.
"""

from __future__ import annotations

import ast
import math
import pickletools
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.core.errors import UsageError

STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING")
FAULTS = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, EOFError, RuntimeError, SyntaxError,
          zipfile.BadZipFile, zlib.error)  # of a damaged or made-up archive  # fmt: skip
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
REBUILD = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter")
TABLE = re.compile(r"^class (\w+)\(Module\):\n((?:[ \t].*\n|\n)*)", re.MULTILINE)
NAMES = re.compile(r"^  __(?:parameters|buffers)__ = (\[.*?\])", re.MULTILINE)


@dataclass
class Inert:
    """A module of the archive: its qualified class and its attributes."""

    kind: str
    state: Any = None


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip archive with TorchScript's table of constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def torchscript_state(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers under their dotted names, as state_dict() of the loaded archive gives them.

    Raises UsageError for an archive that holds anything else than modules with plain attributes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).partition("/")[0]
            read = _Reader(archive, root)
            return dict(read.tensors(read.run(archive.read(f"{root}/data.pkl"))))
    except FAULTS as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UsageError(
            f"weights {path}: its TorchScript archive cannot be read as tensors ({reason}); "
            "nothing in it was run; give a safetensors file or a state_dict saved by torch"
        ) from None


class _Reader:
    """The tensors of one open archive; root: the folder that all its records are in."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def run(self, data: bytes) -> Any:
        """The value of a pickle of TorchScript; any opcode that it does not write is an error."""
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[Any, Any] = {}
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return stack.pop()
            if name == "MARK":
                marks.append(len(stack))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in ("TUPLE", "APPENDS", "SETITEMS"):
                stack, taken = stack[: marks[-1]], stack[marks.pop() :]
                self._filled(name, stack, taken)
            elif name != "PROTO":
                self._step(name, argument, stack)
        raise ValueError("it has no end")

    def _filled(self, name: str, stack: list[Any], taken: list[Any]) -> None:
        if name == "TUPLE":
            stack.append(tuple(taken))
        elif name == "APPENDS":
            stack[-1].extend(taken)
        else:
            stack[-1].update(zip(taken[::2], taken[1::2], strict=True))

    def _step(self, name: str, argument: Any, stack: list[Any]) -> None:
        """Carry out an opcode that needs no mark."""
        if name in CONSTANT:
            stack.append(CONSTANT[name])
        elif name in VALUES or name == "GLOBAL":
            stack.append(Inert(f"global {argument}") if name == "GLOBAL" else argument)
        elif name in TUPLES:
            count = TUPLES[name]
            taken = tuple(stack[len(stack) - count :])
            del stack[len(stack) - count :]
            stack.append(taken)
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if name == "EMPTY_LIST" else {})
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            given, made = stack.pop(), stack.pop()
            stack.append(self._made(made, given))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        else:
            raise ValueError(f"opcode {name}")

    def _made(self, made: Inert, given: tuple[Any, ...]) -> Any:
        """A tensor, a list of numbers, or a module without attributes; never a call of what the archive names."""
        kind = made.kind.removeprefix("global ")
        if kind == REBUILD[0]:
            whole, offset, size, stride = given[:4]
            if math.prod(size) > whole.numel():  # strides of 0 would make a few bytes fill the memory
                raise ValueError(f"a tensor of {math.prod(size)} numbers in a storage of {whole.numel()}")
            return whole.as_strided(size, stride, offset).clone()
        if kind == REBUILD[1]:
            return given[0]
        if kind.startswith("torch.jit._pickle "):
            return given[0] if given else None
        if kind.startswith("__torch__"):
            return Inert(kind.replace(" ", "."))
        if kind == "collections OrderedDict":
            return {}
        raise ValueError(f"it names {kind.replace(' ', '.')}")

    def _storage(self, given: tuple[Any, ...]) -> Tensor:
        _, kind, key = given[:3]
        if key not in self._storages:
            dtype = STORAGES[kind.kind.removeprefix("global torch ")]
            data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]

    def tensors(self, module: Any, prefix: str = "") -> Any:
        """(dotted name, tensor) of all parameters and buffers of a module and its parts."""
        if not isinstance(module, Inert) or not isinstance(module.state, dict):
            raise ValueError(f"{prefix.rstrip('.') or 'the whole'} is no module with plain attributes")
        names = self._names(module.kind)
        for key, value in module.state.items():
            if isinstance(value, Inert) and value.kind.startswith("__torch__"):
                yield from self.tensors(value, f"{prefix}{key}.")
            elif isinstance(value, Tensor) and key in names:
                yield f"{prefix}{key}", value

    def _names(self, kind: str) -> set[str]:
        """Names of the parameters and buffers of a class, from the text of the archive's code."""
        place, _, name = kind.rpartition(".")
        code = self._archive.read(f"{self._root}/code/{place.replace('.', '/')}.py").decode()
        body = next(found.group(2) for found in TABLE.finditer(code) if found.group(1) == name)
        return {each for table in NAMES.findall(body) for each in ast.literal_eval(table)}
