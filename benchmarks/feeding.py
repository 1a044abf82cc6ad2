"""Ratios of feeding the training step: two decoding workers against one, and the fast decoder against Pillow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders import interleaved, ratio_row
from benchmarks.loader import SIZE, photographs
from cmapkd.config.schema import DataConfig
from cmapkd.data.decoders import rendered
from cmapkd.data.loader import InputSpec, Loader
from cmapkd.data.samples import Samples
from cmapkd.data.views import view_of

BATCH, CROP = 32, (0.6, 1.0)


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Two rows, over the same JPEG files of 640×480; the sides take turns."""
    torch.set_num_threads(1)
    count, rounds = (96, 3) if quick else (320, 5)
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder), count)
        return [workers(files, rounds), decoders(files[: count // 2], rounds)]


def workers(files: list[Path], rounds: int) -> dict[str, Any]:
    """Images a second that the loader delivers, by the clock and after the first batch, so that starting processes does not count."""
    best = {1: 0.0, 2: 0.0}
    for _ in range(rounds):
        for number in best:
            best[number] = max(best[number], delivered(files, number))
    detail = (
        f"images/s of the loader: 2 workers {best[2]:.0f}, 1 worker {best[1]:.0f}; needs two processors that are free"
    )
    return ratio_row("i", "decoding, 2 workers / 1 worker", best[2] / best[1], 1.7, ">=", detail)


def delivered(files: list[Path], number: int) -> float:
    """Images a second of four epochs."""
    names = tuple(str(k) for k in range(len(files)))
    samples = Samples("photographs", names, tuple(files), tuple(("a",) for _ in files))
    data = DataConfig(train="x", workers=number, ram_mb=0, crop=CROP)
    batches = Loader(samples, data, InputSpec(SIZE, no_words), None, BATCH, 0).iterate(0, 4 * (len(files) // BATCH))
    next(batches)
    start, images = time.perf_counter(), 0
    for _, batch in batches:
        images += len(batch)
    return images / (time.perf_counter() - start)


def no_words(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(len(texts), 2, dtype=torch.long), torch.zeros(len(texts), 2, dtype=torch.long)


def decoders(files: list[Path], rounds: int) -> dict[str, Any]:
    """CPU time of rendering a training view with each decoder, read and resize included."""

    def render_all(name: str) -> Callable[[], object]:
        return lambda: [rendered(f, view_of(k, 0, 4, CROP, False), (SIZE,), name) for k, f in enumerate(files)]

    seconds = interleaved(rounds, {name: render_all(name) for name in ("simplejpeg", "pillow")})
    rate = {name: len(files) / min(values) for name, values in seconds.items()}
    off = difference(files[:12])
    detail = (
        f"JPEG 640×480 to {SIZE}, images/s/core: simplejpeg {rate['simplejpeg']:.0f}, pillow {rate['pillow']:.0f}; "
        f"pixels differ by {off:.2f} of 255 on average"
    )
    return ratio_row("i", "data.decoder, simplejpeg / pillow", rate["simplejpeg"] / rate["pillow"], 1.5, ">=", detail)


def difference(files: list[Path]) -> float:
    """Mean absolute difference of the two decoders' pixels in grey levels. Raises where they are not the same picture."""
    pairs = [
        [
            rendered(f, view_of(k, 0, 4, CROP, False), (SIZE,), name)[0].astype(float)
            for name in ("simplejpeg", "pillow")
        ]
        for k, f in enumerate(files)
    ]
    worst = max(float(abs(a - b).mean()) for a, b in pairs)
    if worst > 6.0:
        raise AssertionError(f"the decoders' pixels differ by {worst:.2f} grey levels on average")
    return sum(float(abs(a - b).mean()) for a, b in pairs) / len(pairs)
