"""Training batches by global step: any step can be built on its own, so a resumed run needs only its step number."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.order import keyed_hash
from cmapkd.core.prefetch import prefetch, processor_share
from cmapkd.core.types import Batch, Inputs
from cmapkd.data.decoders import rendered, simplejpeg
from cmapkd.data.holdout import Pool
from cmapkd.data.images import Unreadable, decode
from cmapkd.data.index.stamps import require_unchanged
from cmapkd.data.remote.ahead import Ahead
from cmapkd.data.samples import Samples
from cmapkd.data.sequence import order_of
from cmapkd.data.tokens import CaptionTokens, Tokenize
from cmapkd.data.views import plain, view_of
from cmapkd.data.workers.job import Job, Pixels, Shown
from cmapkd.data.workers.pool import Decode, decode_here, decoding

PREFETCH = 2  # steps prepared while the current one trains
IMAGES_PER_WORKER = 500  # to start a process takes the time of decoding about 60
CHECKED = 1000  # steps between two looks whether the files of indexed data have changed
SHOWN = 5  # unreadable images named in an error
CAPTION, VIEW = 7, 11  # hash keys: the random draws of captions and of views are independent
StoredPixels = Callable[[int, int], np.ndarray | None]  # (sample, view) → uint8 [3, size, size]
Bad = dict[int, str]  # sample → why its image is unreadable
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
        allowed = self.allowed(samples, data)
        if len(self.quarantined) > allowed:
            raise DataError(
                f"{samples.name}: {len(self.quarantined)} unreadable images, the budget is {allowed} "
                f"(data.bad_budget {data.bad_budget:g}): {self.shown()}; repair or remove them, or raise the budget"
            )

    def allowed(self, samples: Samples, data: DataConfig) -> int:
        """Most images that may be unreadable."""
        return max(1, int(data.bad_budget * len(samples)))

    def shown(self) -> str:
        return "; ".join(f"{name} ({why})" for name, why in list(self.quarantined.items())[:SHOWN])


class Loader:
    """Batches of image–caption pairs over `pool` (sample indices, all by default).

    The order of an epoch is a keyed permutation of (seed, epoch), over all or shard after shard (data/sequence.py); the last
    incomplete batch is dropped. Image i is
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
        self.order = order_of(samples, data, self.pool)
        self.stored_pixels, self.stripe = None if teacher else stored_pixels, stripe
        if data.decoder == "simplejpeg":
            simplejpeg()  # told now if it is missing
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
        return self._delivered(*self.make(step, decode_here))

    def make(self, step: int, decode: Decode) -> tuple[Batch | None, Bad]:
        """(batch of a step, its unreadable images); no batch where these alone are more than the budget. Leaves the ledger alone."""
        if step % CHECKED == 0:
            require_unchanged(self.samples.sources)
        epoch, position = divmod(step, self.steps_per_epoch)
        first, of = self.stripe
        slots = np.arange(position * self.size + first, (position + 1) * self.size, of)
        rows, pixels, bad = self._readable(slots, epoch, decode)
        if len(bad) > self.ledger.allowed(self.samples, self.data):
            return None, bad
        first, counts = self.samples.caption_spans(rows)
        turn = np.array([keyed_hash(self.seed, row, CAPTION) % 2**31 for row in rows.tolist()]) + epoch
        captions = torch.from_numpy(first + turn % counts)
        student = Inputs(_stack(pixels, 0), *self.tokens(captions))
        teacher = None
        if self.teacher_tokens is not None:
            teacher = Inputs(_stack(pixels, 1), *self.teacher_tokens(captions))
        views = torch.tensor([self._view(row, epoch) for row in rows.tolist()])
        return Batch(torch.from_numpy(rows), captions, views, student, teacher), bad

    def iterate(
        self, start: int, stop: int, then: Callable[[int, Batch], Made] = _batch_itself
    ) -> Iterator[tuple[int, Made]]:
        """Yield (step, then(step, batch)) for start ≤ step < stop; the next two steps are prepared meanwhile.

        Images are decoded on data.workers processes; calls of `then` do not overlap. The ledger counts a step, and the budget
        of unreadable images ends the run, when that step is yielded, whichever was ready first.
        """
        one_at_a_time = threading.Lock()
        ahead = Ahead(self.samples, self.pool, self.order, self.seed)
        with decoding(self.workers) as decode, ahead.running():

            def make(step: int) -> tuple[int, Batch | None, Bad, Made | None]:
                epoch, position = divmod(step, self.steps_per_epoch)
                ahead.at(position * self.size, epoch)
                batch, bad = self.make(step, decode)
                if batch is None:
                    return step, None, bad, None
                with one_at_a_time:
                    return step, batch, bad, then(step, batch)

            with closing(prefetch(make, range(start, stop), min(self.workers, PREFETCH), PREFETCH)) as ready:
                for step, batch, bad, made in ready:
                    self._delivered(batch, bad)
                    yield step, cast(Made, made)

    @property
    def workers(self) -> int:
        """Number of processes that decode: data.workers, or by default one per processor but one and per 500 images."""
        if self.stored_pixels is not None:
            return 1
        return self.data.workers or max(1, min(processor_share() - 1, len(self.pool) // IMAGES_PER_WORKER))

    def _delivered(self, batch: Batch | None, bad: Bad) -> Batch:
        for sample, reason in bad.items():
            self.ledger.quarantine(self.samples, self.data, sample, reason)
        assert batch is not None  # without one, the loop has raised
        self.ledger.seen += len(batch)
        return batch

    def _drawn(self, slots: np.ndarray, epoch: int) -> np.ndarray:
        return self.pool[self.order(slots % len(self.pool), self.seed, epoch)]

    def _view(self, sample: int, epoch: int) -> int:
        return keyed_hash(self.seed, sample, epoch, VIEW) % self.data.views

    def _readable(self, slots: np.ndarray, epoch: int, decode: Decode) -> tuple[np.ndarray, list[Pixels], Bad]:
        """(samples, pixels, unreadable images) of the samples drawn at slots; the next one of the order replaces an unreadable."""
        rows, bad = self._drawn(slots, epoch), {}
        found = self._pixels(rows.tolist(), epoch, decode)
        for k, slot in enumerate(slots.tolist()):
            shift = 0
            while not isinstance(result := found[k], list):
                drawn, shift = int(rows[k]), shift + 1
                if result is not None:
                    bad.setdefault(drawn, result)
                if len(bad) > self.ledger.allowed(self.samples, self.data):
                    return rows, [], bad
                if shift > len(self.pool):
                    raise DataError(f"{self.samples.name}: no readable image is left; check data.images")
                rows[k] = self._drawn(np.array([slot + shift]), epoch)[0]
                found[k] = None if int(rows[k]) in bad else self._pixels([int(rows[k])], epoch, decode)[0]
        return rows, cast(list[Pixels], found), bad

    def _pixels(self, samples: list[int], epoch: int, decode: Decode) -> list[Pixels | str | None]:
        """For each sample its view's pixels at the student's and the teacher's size, why it is unreadable, or None where known to be."""
        views = [self._view(sample, epoch) for sample in samples]
        found = [self._at_hand(sample, view) for sample, view in zip(samples, views, strict=True)]
        missing = [
            k
            for k, pixels in enumerate(found)
            if pixels is None and self.samples.ids[samples[k]] not in self.ledger.quarantined
        ]
        for k, result in zip(missing, decode([self._job(samples[k], views[k]) for k in missing]), strict=True):
            found[k] = result
            if not isinstance(result, str):
                self._keep((samples[k], views[k]), result)
        return found

    def _at_hand(self, sample: int, view: int) -> Pixels | str | None:
        """Pixels that need no decoding."""
        if self.stored_pixels is not None and (row := self.stored_pixels(sample, view)) is not None:
            return [row]
        return self._decoded.get((sample, view))

    def _job(self, sample: int, view: int) -> Job:
        sizes = tuple(spec.size for spec in (self.student, self.teacher) if spec)
        shown = Shown(sample, view, self.data.views, self.data.crop, self.data.flip, sizes, self.data.decoder)
        return Job(self.samples.paths[sample], shown)

    def _keep(self, key: tuple[int, int], pixels: Pixels) -> None:
        """Keep decoded pixels in memory while there is room."""
        size = sum(p.nbytes for p in pixels)
        with self._lock:
            if self._cache_bytes_left >= size and key not in self._decoded:
                self._cache_bytes_left -= size
                self._decoded[key] = pixels


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
            out[row] = rendered(samples.paths[int(i)], shape, [size], data.decoder)[0]
        except Unreadable as error:
            ledger.quarantine(samples, data, int(i), error.reason)
    return torch.from_numpy(out)


def _stack(pixels: Sequence[list[np.ndarray]], which: int) -> Tensor:
    return torch.from_numpy(np.stack([images[which] for images in pixels]))
