"""Console output and the metrics file: messages, progress with rate and ETA, and rows of JSON lines."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cmapkd.core import fsio

PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal
TERMINAL_EVERY = 0.2
NO_PROGRESS = "CMAPKD_NO_PROGRESS"  # set for worker processes whose parent shows the progress of all
ERASE = "\r\x1b[K"
silent = False  # True in the processes of a run that leave the talking to its first one


def clean(text: str) -> str:
    """The text with control characters escaped, so that a caption or file name cannot forge lines or colours."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def say(text: str) -> None:
    """Print one line on stderr, over the progress line if a terminal shows one; nothing in a silent process."""
    if silent:
        return
    print(f"{ERASE if sys.stderr.isatty() else ''}{clean(text)}", file=sys.stderr, flush=True)


class Progress:
    """A progress line `label 120/400  12.3/s  ETA 00:23  note`, rewritten on a terminal, printed every 10 s elsewhere.

    The rate counts from the first update, so that a resumed run does not count the steps before it.
    quiet: seconds before the first output, for work that is mostly short.
    """

    def __init__(self, total: int, label: str, quiet: float = 0.0) -> None:
        self.total, self.label = total, label
        self.started = self.shown = time.monotonic()
        self.show_after, self.printed = self.started + quiet, False
        self.first: int | None = None
        self.terminal = sys.stderr.isatty() and not silent

    def update(self, done: int, note: str | Callable[[], str] = "") -> None:
        """note: the text, or a function that makes it, called only where a line is printed."""
        now = time.monotonic()
        if self.first is None:
            self.first = done - 1 if done == 1 else done
            self.started = self.started if done == 1 else now
        if NO_PROGRESS in os.environ:
            return
        soon = now - self.shown < (TERMINAL_EVERY if self.terminal else PLAIN_EVERY) and done < self.total
        if soon or now < self.show_after:
            return
        self.shown, self.printed = now, True
        seconds, steps = now - self.started, done - self.first
        pace = (
            f"{steps / seconds:.1f}/s  ETA {_clock((self.total - done) * seconds / steps)}"
            if steps and seconds
            else "…"
        )
        text = note if isinstance(note, str) else note()
        line = f"{self.label} {done}/{self.total}  {pace}  {text}".rstrip()
        if self.terminal:
            print(f"{ERASE}{clean(line)}", end="", file=sys.stderr, flush=True)
        else:
            say(line)

    def close(self) -> None:
        if self.terminal and self.printed:
            print(file=sys.stderr, flush=True)


class MetricsLog:
    """A file of JSON lines; numbers that are not finite become null. trackers: callables that also receive each row."""

    def __init__(self, path: Path, trackers: Sequence[Callable[[dict[str, object]], None]] = ()) -> None:
        self.path, self.trackers = path, trackers

    def write(self, row: dict[str, object]) -> None:
        """Append the row in a single write. Raises DiskError."""
        fsio.append_line(self.path, json.dumps(_finite(row), allow_nan=False))
        for track in self.trackers:
            track(row)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; lines that are no JSON, as a kill may leave, are skipped."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return value


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
