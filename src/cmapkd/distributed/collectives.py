"""Collectives: tensors gathered, summed or shared between the processes of a run, and values that one makes for all.

In a run of one process each gives its input. A process that is lost while others wait for it is a PeerLostError that
names it; one that ended with an error of its own gives that error.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cmapkd.core.errors import CmapkdError, error_of
from cmapkd.distributed.group import Group, alone, group, lost, rank, world

Value = TypeVar("Value")
BUCKET = 25 * 2**20  # bytes that are sent at a time
POLL = 0.01  # seconds


def own_rows(whole: Tensor) -> Tensor:
    """The rows of this process among those of all, as the loader gives them: every n-th from the rank on."""
    return whole[rank() :: world()]


def gathered(own: Sequence[Tensor]) -> list[Tensor]:
    """Tensors [b, …] of each process as [n · b, …] with the rows of all, in the order of one process; no gradient.

    All go as bytes in one message. Every process has tensors of the same shapes.
    """
    count = world()
    if count == 1 or not own:
        return list(own)
    b = len(own[0])
    parts = [tensor.detach().contiguous().view(b, -1) for tensor in own]
    message = torch.cat(
        [part.view(torch.uint8) if part.numel() else part.new_empty(b, 0, dtype=torch.uint8) for part in parts], 1
    )
    all_rows = message.new_empty(count, *message.shape)
    with _waiting():
        dist.all_gather(list(all_rows.unbind(0)), message)
    columns = all_rows.transpose(0, 1).reshape(count * b, -1).split([p.nbytes // b for p in parts], 1)
    return [
        column.contiguous().view(tensor.dtype).view(count * b, *tensor.shape[1:]) if column.numel()
        else tensor.new_empty(count * b, *tensor.shape[1:])
        for column, tensor in zip(columns, own, strict=True)
    ]  # fmt: skip


def average_(tensors: Iterable[Tensor]) -> None:
    """Set each tensor to its mean over the processes, in buckets; every process gets the same bits."""
    _reduce(tensors, world())


def sum_(tensors: Iterable[Tensor]) -> None:
    """Set each tensor to its sum over the processes; integers wrap around."""
    _reduce(tensors, 1)


def share_(tensors: Iterable[Tensor]) -> None:
    """Set each tensor to that of the first process."""
    if world() == 1:
        return
    with torch.no_grad(), _waiting():
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            dist.broadcast(flat, 0)
            _put_back(flat, bucket)


def start_maximum(number: int) -> Callable[[], int]:
    """Begin to find the largest of the processes' numbers; the function that is returned waits for it and gives it."""
    if world() == 1:
        return lambda: number
    found = torch.tensor([number])
    with _waiting():
        work = dist.all_reduce(found, dist.ReduceOp.MAX, async_op=True)
    assert work is not None
    known: list[int] = []

    def result() -> int:
        if not known:
            with _waiting():
                work.wait()
            known.append(int(found))
        return known[0]

    return result


def from_first(make: Callable[[], Value]) -> Value:
    """A value that the first process makes, alone, and all get; what JSON can say (tuples come back as lists).

    It may take any time; the others only watch that it is alive. Its error is an error of all, and only it prints it.
    """
    mine = group()
    if mine is None:
        return make()
    key = _next_key(mine)
    if mine.place.rank == 0:
        try:
            with alone():
                text = json.dumps([0, make()])
        except (CmapkdError, SystemExit) as error:
            mine.store.set(key, json.dumps([int(error.code or 1), str(error)]))
            raise
        mine.store.set(key, text)
    else:
        _wait(mine, key)
        text = mine.store.get(key).decode()
    code, value = json.loads(text)
    if code:
        error = error_of(code, value)
        error.told = True
        raise error
    return value


def tensors_from_first(make: Callable[[], tuple[dict[str, Tensor], Any]]) -> tuple[dict[str, Tensor], Any]:
    """Tensors by name, on the CPU, and a JSON value, which the first process makes and all get."""
    if world() == 1:
        return make()
    made: dict[str, Tensor] = {}

    def described() -> Any:
        tensors, value = make()
        made.update({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})
        shapes = {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in made.items()}
        return [shapes, value]

    shapes, value = from_first(described)
    out = made or {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, (dtype, shape) in shapes.items()}
    share_(out.values())
    return out, value


def values_of_all(value: Any) -> list[Any]:
    """The JSON values of all processes in the order of their ranks; also the place where they wait for one another."""
    mine = group()
    if mine is None:
        return [value]
    key, ranks = _next_key(mine), range(mine.place.world)
    mine.store.set(f"{key}/{mine.place.rank}", json.dumps(value))
    for other in ranks:
        _wait(mine, f"{key}/{other}")
    return [json.loads(mine.store.get(f"{key}/{other}")) for other in ranks]


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """The first process goes through the block before the others do, which find the files that it made there."""
    if rank() > 0:
        values_of_all(None)
    yield
    if rank() == 0:
        values_of_all(None)


def _next_key(mine: Group) -> str:
    mine.values += 1
    return f"value/{mine.values}"


def _wait(mine: Group, key: str) -> None:
    """Return when the key is in the store. Raises the error of a process that ended, or PeerLostError for a silent one."""
    turns = 0
    while True:
        try:
            if mine.store.check([key]):
                return
        except RuntimeError as error:
            raise lost(error) from None
        turns += 1
        if turns % 50 == 0:
            if (fault := mine.heartbeat.fault()) is not None:
                raise fault
            if silent := mine.heartbeat.silent(mine.heartbeat.timeout):
                raise mine.heartbeat.lost(silent)
        time.sleep(POLL)


def _reduce(tensors: Iterable[Tensor], divisor: int) -> None:
    if world() == 1:
        return
    with torch.no_grad(), _waiting():
        under_way = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            under_way.append((flat, bucket, dist.all_reduce(flat, async_op=True)))
        for flat, bucket, work in under_way:
            work.wait()
            _put_back(flat if divisor == 1 else flat.div_(divisor), bucket)


def _buckets(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """The tensors in their order, those of one dtype and device together, up to BUCKET bytes in each."""
    open_: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    size: dict[tuple[torch.dtype, torch.device], int] = {}
    out = []
    for tensor in tensors:
        kind = tensor.dtype, tensor.device
        if kind not in open_ or size[kind] + tensor.nbytes > BUCKET:
            open_[kind], size[kind] = [], 0
            out.append(open_[kind])
        open_[kind].append(tensor)
        size[kind] += tensor.nbytes
    return out


def _put_back(flat: Tensor, bucket: list[Tensor]) -> None:
    for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
        tensor.copy_(part.view(tensor.shape))


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    """A collective that fails is an error that names the process which is lost."""
    if (mine := group()) is not None:
        mine.heartbeat.entered += 1
    try:
        yield
    except CmapkdError:
        raise
    except RuntimeError as error:
        raise lost(error) from None
