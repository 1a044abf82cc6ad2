"""Loader: training batches by global step. Random access, so that resuming is one integer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

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
Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]


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


class Loader:
    """Batches of image–caption pairs over `pool` (sample indices, all by default).

    Epoch order is a keyed bijection of (seed, epoch); the last incomplete batch of an epoch is dropped. Image i shows
    caption (own offset + epoch) mod its count, so that all captions are used, and one of its stored views.
    """

    def __init__(
        self, samples: Samples, data: DataConfig, student: Reader, teacher: Reader | None, batch: int, seed: int,
        pool: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.samples, self.data, self.student, self.teacher, self.seed = samples, data, student, teacher, seed
        self.pool = np.arange(len(samples)) if pool is None else pool
        if batch > len(self.pool):
            raise UsageError(f"train.batch is {batch}, but there are only {len(self.pool)} images; lower train.batch")
        self.size, self.steps_per_epoch = batch, len(self.pool) // batch
        captions = samples.flat_captions()
        self.tokens = student.tokenize(captions)
        self.teacher_tokens = teacher.tokenize(captions) if teacher else None
        self.ledger = Ledger()
        self._memo: dict[tuple[int, int, int], np.ndarray] = {}
        self._room = data.ram_mb * 2**20
        self._lock = threading.Lock()

    def batch(self, step: int) -> Batch:
        """The batch of a global step; the same for the same (data, seed, step), whatever came before."""
        epoch, position = divmod(step, self.steps_per_epoch)
        slots = np.arange(position * self.size, (position + 1) * self.size)
        rows, views, pixels = [], [], []
        for slot in slots:
            sample, view, images = self._readable(int(slot), epoch)
            rows.append(sample)
            views.append(view)
            pixels.append(images)
        offsets, counts = self.samples.caption_offsets[rows], np.diff(self.samples.caption_offsets)[rows]
        turn = np.array([keyed(self.seed, row, 7) % 2**31 for row in rows]) + epoch
        captions = torch.from_numpy(offsets + turn % counts)
        student = Inputs(_stack(pixels, 0), self.tokens[0][captions], self.tokens[1][captions])
        teacher = None
        if self.teacher_tokens is not None:
            teacher = Inputs(_stack(pixels, 1), self.teacher_tokens[0][captions], self.teacher_tokens[1][captions])
        self.ledger.seen += len(rows)
        return Batch(torch.tensor(rows), captions, torch.tensor(views), student, teacher)

    def iterate(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """(step, batch) for start ≤ step < stop, the next ones prepared by a thread; its errors surface here."""
        ready: queue.Queue = queue.Queue(maxsize=PREFETCH)
        cancelled = threading.Event()

        def produce() -> None:
            try:
                for step in range(start, stop):
                    item = (step, self.batch(step))
                    while not cancelled.is_set():
                        try:
                            ready.put(item, timeout=0.2)
                            break
                        except queue.Full:
                            continue
                    if cancelled.is_set():
                        return
                ready.put(None)
            except BaseException as error:  # handed to the consumer, which raises it
                ready.put(error)

        thread = threading.Thread(target=produce, daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            cancelled.set()

    def _readable(self, slot: int, epoch: int) -> tuple[int, int, list[np.ndarray]]:
        """The slot's sample, or the next readable one of the permutation, which the ledger then knows of."""
        n = len(self.pool)
        for shift in range(n):
            place = permute(np.array([(slot + shift) % n]), n, self.seed, epoch)[0]
            sample = int(self.pool[place])
            if self.samples.ids[sample] in self.ledger.quarantined:
                continue
            view = keyed(self.seed, sample, epoch, 11) % self.data.views
            try:
                return sample, view, [self._pixels(sample, view, r.size) for r in (self.student, self.teacher) if r]
            except Unreadable as error:
                self._quarantine(sample, error.reason)
        raise DataError(f"{self.samples.name}: no readable image is left")

    def _pixels(self, sample: int, view: int, size: int) -> np.ndarray:
        key = (sample, view, size)
        if key in self._memo:
            return self._memo[key]
        shape = view_of(sample, view, self.data.views, self.data.crop, self.data.flip)
        pixels = render(decode(self.samples.paths[sample]), shape, size)
        with self._lock:
            if self._room >= pixels.nbytes:
                self._room -= pixels.nbytes
                self._memo[key] = pixels
        return pixels

    def _quarantine(self, sample: int, reason: str) -> None:
        self.ledger.quarantined[self.samples.ids[sample]] = reason
        allowed = max(1, int(self.data.bad_budget * len(self.samples)))
        if len(self.ledger.quarantined) > allowed:
            shown = "; ".join(f"{name} ({why})" for name, why in list(self.ledger.quarantined.items())[:5])
            raise DataError(
                f"{self.samples.name}: {len(self.ledger.quarantined)} unreadable images, the budget is {allowed} "
                f"(data.bad_budget {self.data.bad_budget:g}): {shown}; mend or remove them, or raise the budget"
            )


def read_images(samples: Samples, indices: np.ndarray | range, size: int) -> Tensor:
    """uint8 [n, 3, size, size] of the plain view, for evaluation. An unreadable image is a DataError here."""
    try:
        return torch.from_numpy(np.stack([plain(decode(samples.paths[int(i)]), size) for i in indices]))
    except Unreadable as error:
        raise DataError(f"{error}; evaluation needs every image of its split: mend it or remove its rows") from None


def read_views(samples: Samples, data: DataConfig, indices: np.ndarray, views: np.ndarray, size: int) -> Tensor:
    """uint8 [n, 3, size, size] of stored views, for the teacher's pass; an unreadable image is grey (never trained on)."""
    out = np.full((len(indices), 3, size, size), 127, dtype=np.uint8)
    for row, (i, v) in enumerate(zip(indices, views, strict=True)):
        try:
            shape = view_of(int(i), int(v), data.views, data.crop, data.flip)
            out[row] = render(decode(samples.paths[int(i)]), shape, size)
        except Unreadable:
            continue
    return torch.from_numpy(out)


def _stack(pixels: list[list[np.ndarray]], which: int) -> Tensor:
    return torch.from_numpy(np.stack([images[which] for images in pixels]))
