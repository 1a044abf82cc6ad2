"""Random generators that a run draws from: torch's own on the CPU, and on each CUDA device that is in use.

In a run of several processes that stream is shared: all draw the same numbers for the whole batch. Beside it each process has
a stream of its own, for what is drawn for its own rows alone (dropout).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

OWN = "own-"
_own: dict[str, Tensor] = {}  # the states of this process's own stream; empty where there is only one


def states() -> dict[str, Tensor]:
    """The state of every generator by name, uint8 tensors; those of the own stream begin with `own-`."""
    return _current() | {f"{OWN}{name}": state for name, state in _own.items()}


def restore(kept: dict[str, Tensor]) -> None:
    """Set the generators to kept states; a device that is not there any more is left out."""
    _set(kept)
    if _own:
        _own.update({name.removeprefix(OWN): state for name, state in kept.items() if name.startswith(OWN)})


def separate(seed: int) -> None:
    """Begin a stream of this process's own; the shared one goes on as it is."""
    before = _current()
    torch.manual_seed(seed)
    _own.clear()
    _own.update(_current())
    _set(before)


def unite() -> None:
    """End the own stream."""
    _own.clear()


@contextlib.contextmanager
def own() -> Iterator[None]:
    """Inside the block numbers come from the process's own stream, where it has one."""
    if not _own:
        yield
        return
    shared = _current()
    _set(_own)
    try:
        yield
    finally:
        _own.update(_current())
        _set(shared)


def _current() -> dict[str, Tensor]:
    found = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found |= {f"cuda-{k}": state for k, state in enumerate(torch.cuda.get_rng_state_all())}
    return found


def _set(kept: dict[str, Tensor]) -> None:
    torch.set_rng_state(kept["torch"])
    for name, state in kept.items():
        if name.startswith("cuda-") and int(name[5:]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(name[5:]))
