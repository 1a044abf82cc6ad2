"""Group: the processes of a run meet, know their ranks, and part; gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from cmapkd.core import log
from cmapkd.core.errors import CmapkdError, UsageError
from cmapkd.distributed.heartbeat import GRACE, SILENT, Heartbeat
from cmapkd.distributed.place import Place, place_of

MEETING = 300.0  # seconds that the processes of a run have to start
PATIENT = 10.0  # seconds of them after which a process that waits says so
PARTING = 60.0  # seconds that rank 0, which may keep the store, waits for the others at the end


@dataclass
class Group:
    """State of a process in its group. values: number of values that rank 0 gave so far. alone: depth of `alone` blocks."""

    place: Place
    store: dist.Store
    heartbeat: Heartbeat
    values: int = 0
    alone: int = 0


_group: Group | None = None
_met: list[dist.Store] = []  # the store of this process's environment, and one entry for each group since


def group() -> Group | None:
    """The group of this process; None in a run of one process, and inside an `alone` block."""
    return None if _group is None or _group.alone else _group


def world() -> int:
    """Number of processes."""
    return 1 if (found := group()) is None else found.place.world


def rank() -> int:
    """Number of this process among them, from 0."""
    return 0 if (found := group()) is None else found.place.rank


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return rank() == 0


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside the block this process is a run of its own; nothing in it waits for the others."""
    if _group is not None:
        _group.alone += 1
    try:
        yield
    finally:
        if _group is not None:
            _group.alone -= 1


@contextlib.contextmanager
def joined(timeout: float, gpus: bool = False) -> Iterator[None]:
    """Inside the block the processes of the environment are one group; nothing where there is one, or a group already.

    timeout: seconds that one may wait for another within a step. gpus: each takes the GPU of its local rank, where there are
    any. An error that ends the block is told to the others.
    """
    global _group
    place = place_of()
    if place.world == 1 or _group is not None:
        yield
        return
    _group = _join(place, timeout, gpus and torch.cuda.is_available())
    log.silent = place.rank > 0
    try:
        yield
    except BaseException as error:
        _group.heartbeat.tell(error)
        if isinstance(error, CmapkdError) and not error.told:
            error.told = _group.heartbeat.said_by_first(error)
        raise
    finally:
        mine, _group, log.silent = _group, None, False
        _leave(mine)


def _join(place: Place, timeout: float, gpus: bool) -> Group:
    os.environ |= place.environment()
    if gpus:
        _own_gpu(place)
    # NCCL ends the whole process, without a word, when its own time is up: the heartbeat shall speak first.
    patience = timedelta(seconds=timeout + (2 * GRACE if gpus else 0))
    try:
        if not _met:
            with saying_what_it_waits_for(place):
                _met.append(next(rendezvous("env://", timeout=timedelta(seconds=MEETING)))[0])
        store = dist.PrefixStore(f"run-{len(_met)}", _met[0])
        _met.append(store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo", store=dist.PrefixStore("group", store), rank=place.rank, world_size=place.world,
            timeout=patience,
        )  # fmt: skip
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"rank {place.rank} of {place.world} cannot meet the others at {place.address}:{place.port} ({reason}); "
            "is the port free there, and were all started?"
        ) from None
    return Group(place, store, Heartbeat(store.clone(), place.rank, place.world, timeout))


@contextlib.contextmanager
def saying_what_it_waits_for(place: Place) -> Iterator[None]:
    """A line on stderr where the block, in which processes meet, takes longer than PATIENT seconds."""
    others = "1 other process" if place.world == 2 else f"{place.world - 1} other processes"
    line = (
        f"rank {place.rank} of {place.world}: waiting for {others} at {place.address}:{place.port}; gives up after {MEETING:.0f} s. "
        "Start them with the same MASTER_ADDR and MASTER_PORT, or start this one alone, without torchrun and srun"
    )
    timer = threading.Timer(PATIENT, log.say, (line,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _own_gpu(place: Place) -> None:
    count = torch.cuda.device_count()
    if place.local_rank >= count:
        raise UsageError(
            f"rank {place.rank}: is process {place.local_rank + 1} of {place.local_world} on a machine with {count} GPUs; "
            f"start {count} there, or set train.device: cpu"
        )
    torch.cuda.set_device(place.local_rank)


def _leave(mine: Group) -> None:
    """Part; the process that keeps the store goes last, so that no other takes its end for a fault."""
    until = time.monotonic() + PARTING
    while mine.place.rank == 0 and time.monotonic() < until:
        if mine.heartbeat.everyone_left() or mine.heartbeat.fault() is not None or mine.heartbeat.silent(SILENT):
            break
        time.sleep(0.02)
    mine.heartbeat.stop()
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()


def lost(error: Exception) -> CmapkdError:
    """The error in words for a collective that failed."""
    assert _group is not None
    return _group.heartbeat.why(" ".join(str(error).split())[:160])
