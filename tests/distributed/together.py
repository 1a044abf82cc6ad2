"""Functions run by several gloo processes at once, for tests: `together(2, work, argument)` gives each rank's answer."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from cmapkd.distributed.group import joined
from cmapkd.distributed.place import Place

TIMEOUT = 120.0


def together(world: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """work(*arguments) of every rank, in processes of their own; an error of one is an error here."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_one, (world, port, folder, work, arguments), nprocs=world, start_method="spawn")
    return [torch.load(folder / f"answer-{rank}", weights_only=True) for rank in range(world)]


def _one(rank: int, world: int, port: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= Place(rank, world, rank, world, "127.0.0.1", port).environment()
    torch.set_num_threads(1)
    with joined(TIMEOUT):
        torch.save(work(*arguments), folder / f"answer-{rank}")
