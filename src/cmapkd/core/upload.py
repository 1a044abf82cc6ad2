"""Copies to a GPU that no kernel waits for: from pinned memory, on a stream of their own, while the step before is computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

from cmapkd.core.tree import tensors

Tree = TypeVar("Tree")


def uploaded(make: Callable[[], Tree], device: torch.device) -> tuple[Tree, Any]:
    """(make(), the event after which its tensors are on the device); on a CPU make() and no event.

    Called by the thread that reads ahead; what `make` copies and computes on the GPU runs on the copy stream.
    """
    if device.type != "cuda":
        return make(), None
    with torch.cuda.stream(copy_stream(device)):
        tree = make()
        event = torch.cuda.Event()
        event.record()
    return tree, event


def await_upload(tree: Any, event: Any) -> None:
    """Let the current stream, not the host, wait for an upload, and keep its memory until this stream has used it."""
    if event is None:
        return
    stream = torch.cuda.current_stream()
    stream.wait_event(event)
    for tensor in tensors(tree):
        if tensor.is_cuda:
            tensor.record_stream(stream)


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The device's stream for copies."""
    return torch.cuda.Stream(device)
