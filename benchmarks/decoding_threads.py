"""Decoding threads beside a training step on many processors, imitated on few: `python -m benchmarks.decoding_threads`.

An image's work that needs the interpreter's lock is computed, its work without the lock is slept, so that as many
images are under way at once as there are threads. The step gives up and takes the lock at each of its operations, as torch does.
HELD and FREE are measured by `python -m benchmarks.decoding_threads FOLDER` on its JPEG files.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image

from cmapkd.data.images import decode
from cmapkd.data.views import render, view_of

HELD, FREE, PIECES = 0.45e-3, 2.1e-3, 6  # seconds of an image with and without the lock; times it changes hands
OPERATIONS, EACH = 3000, 10e-6  # of a step, and seconds of Python in each


def imitate(threads: int) -> tuple[float, float]:
    """(images a second beside a step, milliseconds of the step's Python) with so many threads that decode."""
    stop, done = threading.Event(), [0]

    def decoding() -> None:
        while not stop.is_set():
            for _ in range(PIECES):
                spin(HELD / PIECES)
                time.sleep(FREE / PIECES)
            done[0] += 1

    running = [threading.Thread(target=decoding) for _ in range(threads)]
    for thread in running:
        thread.start()
    done[0], start = 0, time.perf_counter()
    steps = [step() for _ in range(6)]
    rate = done[0] / (time.perf_counter() - start)
    stop.set()
    for thread in running:
        thread.join()
    return rate, 1e3 * statistics.median(steps)


def step() -> float:
    start = time.perf_counter()
    for _ in range(OPERATIONS):
        spin(EACH)
        time.sleep(0)
    return time.perf_counter() - start


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def measure(folder: Path, size: int = 224, count: int = 400) -> tuple[float, float]:
    """(milliseconds of CPU with the lock, without it) of an image; Pillow gives it up in its decoders and in its resize."""
    inside = [0.0]

    def timed(call: Any) -> Any:
        def counted(*given: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*given)
            finally:
                inside[0] += time.thread_time() - start

        return counted

    class Counted:
        def __init__(self, real: Any, name: str) -> None:
            self.real, self.name = real, name

        def __getattr__(self, name: str) -> Any:
            found = getattr(self.real, name)
            return timed(found) if name == self.name else found

    decoder, resize = Image._getdecoder, Image.Image.resize

    def resized(image: Any, *given: Any, **options: Any) -> Any:
        real = image._im
        image._im = Counted(real, "resize")
        try:
            return resize(image, *given, **options)
        finally:
            image._im = real

    Image._getdecoder = lambda *given, **options: Counted(decoder(*given, **options), "decode")
    setattr(Image.Image, "resize", resized)  # noqa: B010
    files = sorted(folder.rglob("*.jp*g"))[:count]
    start = time.thread_time()
    for k, file in enumerate(files):
        render(decode(file), view_of(k, 0, 4, (0.6, 1.0), False), size)
    Image._getdecoder, Image.Image.resize = decoder, resize
    each = 1e3 / len(files)
    return (time.thread_time() - start - inside[0]) * each, inside[0] * each


if __name__ == "__main__":
    if len(sys.argv) > 1:
        held, free = measure(Path(sys.argv[1]))
        print(f"{held:.2f} ms of an image hold the lock, {free:.2f} ms do not")
    for threads in (0, 1, 4, 8, 15):
        rate, milliseconds = imitate(threads)
        print(f"{threads} threads: {rate:.0f} images/s beside a step whose Python takes {milliseconds:.0f} ms")
