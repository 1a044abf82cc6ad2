"""Training batches by global step: any step can be built on its own, so a resumed run needs only its step number."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.order import keyed_hash, permute
from cmapkd.core.prefetch import prefetch
from cmapkd.core.types import Batch, Inputs
from cmapkd.data.holdout import Pool
from cmapkd.data.images import Unreadable, decode
from cmapkd.data.index.stamps import require_unchanged
from cmapkd.data.samples import Samples
from cmapkd.data.tokens import CaptionTokens, Tokenize
from cmapkd.data.views import plain, render, view_of

PREFETCH = 2  # steps prepared while the current one trains
CHECKED = 1000  # steps between two looks whether the files of indexed data have changed
SHOWN = 5  # unreadable images named in an error
CAPTION, VIEW = 7, 11  # hash keys: the random draws of captions and of views are independent
StoredPixels = Callable[[int, int], np.ndarray | None]  # (sample, view) → uint8 [3, size, size]
Made = TypeVar("Made")


def _batch_itself(step: int, batch: Batch) -> Any:
    return batch


@dataclass(frozen=True)
class InputSpec:
    """The inputs one model expects: image side in pixels, and its tokenizer."""

    size: int
    tokenize: Tokenize


@dataclass
class Ledger:
    """Count of the samples delivered (`seen`), and every unreadable image with its reason (`quarantined`)."""

    seen: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)

    def quarantine(self, samples: Samples, data: DataConfig, sample: int, reason: str) -> None:
        """Record an unreadable image. Raises DataError with the list when there are more than data.bad_budget allows."""
        self.quarantined[samples.ids[sample]] = f"{samples.paths[sample].name}: {reason}"
        self.refuse_many(samples, data)

    def refuse_many(self, samples: Samples, data: DataConfig) -> None:
        """Raise DataError with the list where there are more unreadable images than data.bad_budget allows."""
        allowed = max(1, int(data.bad_budget * len(samples)))
        if len(self.quarantined) > allowed:
            raise DataError(
                f"{samples.name}: {len(self.quarantined)} unreadable images, the budget is {allowed} "
                f"(data.bad_budget {data.bad_budget:g}): {self.shown()}; repair or remove them, or raise the budget"
            )

    def shown(self) -> str:
        return "; ".join(f"{name} ({why})" for name, why in list(self.quarantined.items())[:SHOWN])


class Loader:
    """Batches of image–caption pairs over `pool` (sample indices, all by default).

    The order of an epoch is a keyed permutation of (seed, epoch); the last incomplete batch is dropped. Image i is
    paired with caption (hash + epoch) mod its number of captions, so that all are used in turn, and with one of its views.
    student, teacher: what each model expects; teacher None where it needs no pixels (cached features).
    stored_pixels: looks up the student's pixels of (sample, view) in a store; used only where `teacher` is None.
    size: samples of a whole batch. stripe: (k, n) gives every n-th sample of each batch from the k-th on, so that n loaders
    give the whole batch between them.
    """

    def __init__(
        self, samples: Samples, data: DataConfig, student: InputSpec, teacher: InputSpec | None, batch: int, seed: int,
        pool: Pool | np.ndarray | None = None, stored_pixels: StoredPixels | None = None, stripe: tuple[int, int] = (0, 1),
    ) -> None:  # fmt: skip
        self.samples, self.data, self.student, self.teacher, self.seed = samples, data, student, teacher, seed
        self.pool = Pool(len(samples)) if pool is None else pool
        self.stored_pixels, self.stripe = None if teacher else stored_pixels, stripe
        if batch > len(self.pool):
            raise UsageError(f"train.batch is {batch}, but there are only {len(self.pool)} images; lower train.batch")
        self.size, self.steps_per_epoch = batch, len(self.pool) // batch
        self.tokens = CaptionTokens(samples.flat_captions(), student.tokenize)
        self.teacher_tokens = CaptionTokens(samples.flat_captions(), teacher.tokenize) if teacher else None
        self.ledger = Ledger()
        self._decoded: dict[tuple[int, int], list[np.ndarray]] = {}
        self._cache_bytes_left = data.ram_mb * 2**20
        self._lock = threading.Lock()

    def batch(self, step: int) -> Batch:
        """The batch of a global step, or this stripe of it; it depends on (data, seed, step) alone, not on earlier calls."""
        if step % CHECKED == 0:
            require_unchanged(self.samples.sources)
        epoch, position = divmod(step, self.steps_per_epoch)
        first, of = self.stripe
        slots = np.arange(position * self.size + first, (position + 1) * self.size, of)
        found = [
            self._readable(*slot, epoch)
            for slot in zip(slots.tolist(), self._drawn(slots, epoch).tolist(), strict=True)
        ]
        rows, views, pixels = zip(*found, strict=True)
        first, counts = self.samples.caption_spans(np.array(rows))
        turn = np.array([keyed_hash(self.seed, row, CAPTION) % 2**31 for row in rows]) + epoch
        captions = torch.from_numpy(first + turn % counts)
        student = Inputs(_stack(pixels, 0), *self.tokens(captions))
        teacher = None
        if self.teacher_tokens is not None:
            teacher = Inputs(_stack(pixels, 1), *self.teacher_tokens(captions))
        with self._lock:
            self.ledger.seen += len(rows)
        return Batch(torch.tensor(rows), captions, torch.tensor(views), student, teacher)

    def iterate(
        self, start: int, stop: int, then: Callable[[int, Batch], Made] = _batch_itself
    ) -> Iterator[tuple[int, Made]]:
        """Yield (step, then(step, batch)) for start ≤ step < stop; a thread prepares the next two steps."""

        def make(step: int) -> tuple[int, Made]:
            return step, then(step, self.batch(step))

        return prefetch(make, range(start, stop), depth=PREFETCH)

    def _drawn(self, slots: np.ndarray, epoch: int) -> np.ndarray:
        return self.pool[permute(slots % len(self.pool), len(self.pool), self.seed, epoch)]

    def _readable(self, slot: int, drawn: int, epoch: int) -> tuple[int, int, list[np.ndarray]]:
        """(sample, view, pixels) of the sample drawn at a slot; an unreadable image is recorded and the next one taken."""
        for shift in range(1, len(self.pool) + 1):
            view = keyed_hash(self.seed, drawn, epoch, VIEW) % self.data.views
            try:
                if self.samples.ids[drawn] not in self.ledger.quarantined:
                    return drawn, view, self._pixels(drawn, view)
            except Unreadable as error:
                with self._lock:
                    self.ledger.quarantine(self.samples, self.data, drawn, error.reason)
            drawn = int(self._drawn(np.array([slot + shift]), epoch)[0])
        raise DataError(f"{self.samples.name}: no readable image is left; check data.images")

    def _pixels(self, sample: int, view: int) -> list[np.ndarray]:
        """The view at the student's size, and at the teacher's where there is one; decoded once for both."""
        if self.stored_pixels is not None and (row := self.stored_pixels(sample, view)) is not None:
            return [row]
        key = (sample, view)
        if (cached := self._decoded.get(key)) is not None:
            return cached
        shape = view_of(sample, view, self.data.views, self.data.crop, self.data.flip)
        image = decode(self.samples.paths[sample])
        pixels = [render(image, shape, spec.size) for spec in (self.student, self.teacher) if spec]
        size = sum(p.nbytes for p in pixels)
        with self._lock:
            if self._cache_bytes_left >= size and key not in self._decoded:
                self._cache_bytes_left -= size
                self._decoded[key] = pixels
        return pixels


def read_images(samples: Samples, indices: np.ndarray | range, size: int) -> Tensor:
    """uint8 [n, 3, size, size] for evaluation: centre crops of whole images. Raises DataError for an unreadable one."""
    try:
        return torch.from_numpy(np.stack([plain(decode(samples.paths[int(i)]), size) for i in indices]))
    except Unreadable as error:
        raise DataError(f"{error}; evaluation needs every image of its split: repair it or remove its rows") from None


def read_views(
    samples: Samples, data: DataConfig, indices: np.ndarray, views: np.ndarray, size: int, ledger: Ledger
) -> Tensor:
    """uint8 [n, 3, size, size] of training views, for the teacher's pass over the data.

    An unreadable image becomes grey, is recorded in the ledger and is never trained on. Raises DataError for more of
    them than data.bad_budget allows.
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
