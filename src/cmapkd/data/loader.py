"""Loader: training batches by global step. Random access, so that resuming is one integer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.order import keyed, permute
from cmapkd.core.types import Batch, Inputs
from cmapkd.data.images import Unreadable, decode
from cmapkd.data.samples import Samples
from cmapkd.data.views import plain, render, view_of

PREFETCH = 2
SHOWN = 5
CAPTION, VIEW = 7, 11  # keys that keep the draws of captions and views apart
Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]
Kept = Callable[[int, int], np.ndarray | None]
Made = TypeVar("Made")


def _itself(step: int, batch: Batch) -> Any:
    return batch


@dataclass(frozen=True)
class Reader:
    """How one model wants its inputs: image side and tokenizer."""

    size: int
    tokenize: Tokenize


@dataclass
class Ledger:
    """seen counts delivered samples; quarantined names every unreadable image with its reason."""

    seen: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)

    def quarantine(self, samples: Samples, data: DataConfig, sample: int, reason: str) -> None:
        """Name an unreadable image. Raises DataError with the list when there are more than data.bad_budget allows."""
        self.quarantined[samples.ids[sample]] = f"{samples.paths[sample].name}: {reason}"
        allowed = max(1, int(data.bad_budget * len(samples)))
        if len(self.quarantined) > allowed:
            raise DataError(
                f"{samples.name}: {len(self.quarantined)} unreadable images, the budget is {allowed} "
                f"(data.bad_budget {data.bad_budget:g}): {self.shown()}; mend or remove them, or raise the budget"
            )

    def shown(self) -> str:
        return "; ".join(f"{name} ({why})" for name, why in list(self.quarantined.items())[:SHOWN])


class Loader:
    """Batches of image–caption pairs over `pool` (sample indices, all by default).

    Epoch order is a keyed bijection of (seed, epoch); the last incomplete batch of an epoch is dropped. Image i shows
    caption (own offset + epoch) mod its count, so that all captions are used, and one of its stored views.
    kept: the student's pixels of (sample, view), where they were kept; used where no teacher wants pixels of its own.
    """

    def __init__(
        self, samples: Samples, data: DataConfig, student: Reader, teacher: Reader | None, batch: int, seed: int,
        pool: np.ndarray | None = None, kept: Kept | None = None,
    ) -> None:  # fmt: skip
        self.samples, self.data, self.student, self.teacher, self.seed = samples, data, student, teacher, seed
        self.pool = np.arange(len(samples)) if pool is None else pool
        self.kept = None if teacher else kept
        if batch > len(self.pool):
            raise UsageError(f"train.batch is {batch}, but there are only {len(self.pool)} images; lower train.batch")
        self.size, self.steps_per_epoch = batch, len(self.pool) // batch
        captions = samples.flat_captions()
        self.tokens = student.tokenize(captions)
        self.teacher_tokens = teacher.tokenize(captions) if teacher else None
        self.ledger = Ledger()
        self._memo: dict[tuple[int, int], list[np.ndarray]] = {}
        self._room = data.ram_mb * 2**20
        self._lock = threading.Lock()

    def batch(self, step: int) -> Batch:
        """The batch of a global step; the same for the same (data, seed, step), whatever came before."""
        epoch, position = divmod(step, self.steps_per_epoch)
        slots = np.arange(position * self.size, (position + 1) * self.size)
        found = [
            self._readable(*slot, epoch)
            for slot in zip(slots.tolist(), self._drawn(slots, epoch).tolist(), strict=True)
        ]
        rows, views, pixels = zip(*found, strict=True)
        offsets = self.samples.caption_offsets
        first, counts = offsets[list(rows)], np.diff(offsets)[list(rows)]
        turn = np.array([keyed(self.seed, row, CAPTION) % 2**31 for row in rows]) + epoch
        captions = torch.from_numpy(first + turn % counts)
        student = Inputs(_stack(pixels, 0), self.tokens[0][captions], self.tokens[1][captions])
        teacher = None
        if self.teacher_tokens is not None:
            teacher = Inputs(_stack(pixels, 1), self.teacher_tokens[0][captions], self.teacher_tokens[1][captions])
        with self._lock:
            self.ledger.seen += len(rows)
        return Batch(torch.tensor(rows), captions, torch.tensor(views), student, teacher)

    def iterate(
        self, start: int, stop: int, then: Callable[[int, Batch], Made] = _itself
    ) -> Iterator[tuple[int, Made]]:
        """(step, then(step, its batch)) for start ≤ step < stop; a thread prepares the next ones, its errors surface here."""
        ready: queue.Queue[tuple[int, Made] | BaseException | None] = queue.Queue(maxsize=PREFETCH)
        cancelled = threading.Event()

        def offer(item: tuple[int, Made] | BaseException | None) -> None:
            while not cancelled.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    return
                except queue.Full:
                    continue

        def produce() -> None:
            try:
                for step in range(start, stop):
                    if cancelled.is_set():
                        return
                    offer((step, then(step, self.batch(step))))
                offer(None)
            except BaseException as error:
                offer(error)

        thread = threading.Thread(target=produce, name="loader", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            cancelled.set()
            thread.join()

    def _drawn(self, slots: np.ndarray, epoch: int) -> np.ndarray:
        return self.pool[permute(slots % len(self.pool), len(self.pool), self.seed, epoch)]

    def _readable(self, slot: int, drawn: int, epoch: int) -> tuple[int, int, list[np.ndarray]]:
        """(sample, view, pixels) of a slot, or of the next readable one; the ledger knows the others."""
        for shift in range(1, len(self.pool) + 1):
            view = keyed(self.seed, drawn, epoch, VIEW) % self.data.views
            try:
                if self.samples.ids[drawn] not in self.ledger.quarantined:
                    return drawn, view, self._pixels(drawn, view)
            except Unreadable as error:
                with self._lock:
                    self.ledger.quarantine(self.samples, self.data, drawn, error.reason)
            drawn = int(self._drawn(np.array([slot + shift]), epoch)[0])
        raise DataError(f"{self.samples.name}: no readable image is left; check data.images")

    def _pixels(self, sample: int, view: int) -> list[np.ndarray]:
        """The view at the student's size, and at the teacher's when there is one; one decoding for both."""
        if self.kept is not None and (row := self.kept(sample, view)) is not None:
            return [row]
        key = (sample, view)
        if (kept := self._memo.get(key)) is not None:
            return kept
        shape = view_of(sample, view, self.data.views, self.data.crop, self.data.flip)
        image = decode(self.samples.paths[sample])
        pixels = [render(image, shape, reader.size) for reader in (self.student, self.teacher) if reader]
        weight = sum(p.nbytes for p in pixels)
        with self._lock:
            if self._room >= weight and key not in self._memo:
                self._room -= weight
                self._memo[key] = pixels
        return pixels


def read_images(samples: Samples, indices: np.ndarray | range, size: int) -> Tensor:
    """uint8 [n, 3, size, size] of the plain view, for evaluation. An unreadable image is a DataError here."""
    try:
        return torch.from_numpy(np.stack([plain(decode(samples.paths[int(i)]), size) for i in indices]))
    except Unreadable as error:
        raise DataError(f"{error}; evaluation needs every image of its split: mend it or remove its rows") from None


def read_views(
    samples: Samples, data: DataConfig, indices: np.ndarray, views: np.ndarray, size: int, ledger: Ledger
) -> Tensor:
    """uint8 [n, 3, size, size] of stored views, for the teacher's pass; an unreadable one is grey, never trained on.

    The ledger names it; more than data.bad_budget are a DataError.
    """
    out = np.full((len(indices), 3, size, size), 127, dtype=np.uint8)
    for row, (i, v) in enumerate(zip(indices, views, strict=True)):
        try:
            shape = view_of(int(i), int(v), data.views, data.crop, data.flip)
            out[row] = render(decode(samples.paths[int(i)]), shape, size)
        except Unreadable as error:
            ledger.quarantine(samples, data, int(i), error.reason)
    return torch.from_numpy(out)


def _stack(pixels: Sequence[list[np.ndarray]], which: int) -> Tensor:
    return torch.from_numpy(np.stack([images[which] for images in pixels]))
