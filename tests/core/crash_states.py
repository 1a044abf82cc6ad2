"""A model of the disk: records the system calls of durable writes, and lists every state that a power loss may leave.

The model is the strict reading of POSIX. A file holds at least what it held at its last fsync, plus any prefix of the
writes since, or zeros of that length. A folder holds its names at its last sync, plus any subset of the changes since,
in order; a rename is one change. A folder's own name belongs to the folder above.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cmapkd.core.primitives import OS

State = dict[str, bytes | None]  # path below the root → content, None for a folder
CAP = 96  # states per point of failure; more are drawn at random


@dataclass(eq=False)
class File:
    durable: bytes = b""
    writes: list[bytes] = field(default_factory=list)

    def possible(self) -> list[bytes]:
        parts = [b"".join(self.writes[:k]) for k in range(len(self.writes) + 1)]
        parts += [bytes(len(parts[-1])), parts[-1][: len(parts[-1]) // 3]]
        return list(dict.fromkeys(self.durable + part for part in parts))


@dataclass(eq=False)
class Folder:
    names: dict[str, File | Folder] = field(default_factory=dict)  # as the running system sees them
    durable: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[dict[str, File | Folder | None]] = field(default_factory=list)

    def change(self, change: dict[str, File | Folder | None]) -> None:
        self.pending.append(change)
        apply(self.names, change)


def apply(names: dict[str, File | Folder], change: dict[str, File | Folder | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Recorder(OS):
    """Performs every operation below `root`, and calls `after` with the model of the disk after each one."""

    def __init__(self, root: Path, after: Callable[[Folder], None]) -> None:
        self.root, self.after = root, after
        self.disk, self.files = Folder(), {}

    def _place(self, path: Path) -> tuple[Folder, str]:
        folder = self.disk
        *parents, name = path.relative_to(self.root).parts
        for part in parents:
            folder = folder.names[part]
        return folder, name

    def create(self, path):
        descriptor = OS.create(path)
        folder, name = self._place(path)
        self.files[descriptor] = File()
        folder.change({name: self.files[descriptor]})
        self.after(self.disk)
        return descriptor

    def append(self, path):
        raise AssertionError("not modelled: lines are appended without a promise about power losses")

    def write(self, descriptor, data):
        data = bytes(data)
        half = max(1, len(data) // 2)  # short writes are legal, and give states in between
        self.files[descriptor].writes.append(data[:half])
        written = OS.write(descriptor, data[:half])
        self.after(self.disk)
        return written

    def fsync(self, descriptor):
        file = self.files[descriptor]
        file.durable, file.writes = file.durable + b"".join(file.writes), []
        self.after(self.disk)

    def rename(self, source, target):
        OS.rename(source, target)
        folder, old = self._place(Path(source))
        same, new = self._place(Path(target))
        assert folder is same
        folder.change({old: None, new: folder.names[old]})
        self.after(self.disk)

    def unlink(self, path):
        OS.unlink(path)
        folder, name = self._place(Path(path))
        folder.change({name: None})
        self.after(self.disk)

    def rmdir(self, path):
        OS.rmdir(path)
        folder, name = self._place(Path(path))
        folder.change({name: None})
        self.after(self.disk)

    def mkdir(self, path):
        OS.mkdir(path)
        folder, name = self._place(Path(path))
        folder.change({name: Folder()})
        self.after(self.disk)

    def sync_folder(self, path):
        folder = self.disk
        for part in Path(path).relative_to(self.root).parts:
            folder = folder.names[part]
        folder.durable, folder.pending = dict(folder.names), []
        self.after(self.disk)


def kill_state(disk: Folder) -> State:
    """The state after a kill: everything that the process did."""
    return _tree(disk, lambda folder: folder.names, lambda file: file.durable + b"".join(file.writes))


def power_loss_states(disk: Folder, rng: random.Random) -> Iterator[State]:
    """All states that a power loss may leave now, or CAP random ones if there are more."""
    folders, files = _nodes(disk)
    pending, contents = sum(len(folder.pending) for folder in folders), [file.possible() for file in files]
    total = 2**pending * math.prod(len(options) for options in contents)
    if total <= CAP:
        picks = itertools.product(*[(False, True)] * pending, *contents)
    else:
        picks = ([*rng.choices((False, True), k=pending), *map(rng.choice, contents)] for _ in range(CAP))
    for pick in picks:
        bits = iter(pick)
        taken: dict = {folder: list(itertools.islice(bits, len(folder.pending))) for folder in folders}
        taken |= dict(zip(files, bits, strict=True))

        def names(folder: Folder, taken: dict = taken) -> dict[str, File | Folder]:
            found = dict(folder.durable)
            for change in itertools.compress(folder.pending, taken[folder]):
                apply(found, change)
            return found

        yield _tree(disk, names, taken.__getitem__)


def build(state: State, root: Path) -> None:
    """Write a state to disk below an empty folder."""
    for path, content in state.items():
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def _nodes(root: Folder) -> tuple[list[Folder], list[File]]:
    """Every folder and file of the model, each once."""
    folders, files, queue = {}, {}, [root]
    while queue:
        folder = queue.pop()
        if folder in folders:
            continue
        folders[folder] = None
        changed = [node for change in folder.pending for node in change.values() if node is not None]
        for node in [*folder.durable.values(), *changed]:
            if isinstance(node, Folder):
                queue.append(node)
            else:
                files[node] = None
    return list(folders), list(files)


def _tree(disk: Folder, names: Callable, content: Callable) -> State:
    state: State = {}

    def walk(prefix: str, folder: Folder) -> None:
        for name, node in sorted(names(folder).items()):
            state[prefix + name] = None if isinstance(node, Folder) else content(node)
            if isinstance(node, Folder):
                walk(f"{prefix}{name}/", node)

    walk("", disk)
    return state
