"""Start of a run on millions of pairs: seconds until the first batch, and memory of all processes of a machine together.

The pairs are synthetic: an index as large as that of CC3M and CC12M together (captions of 60 bytes on average), whose images
are eight JPEG files again and again. Each process opens it, holds out a share, makes a loader with noisy captions and one batch.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contenders import ratio_row
from cmapkd.config.schema import CorruptConfig, DataConfig

PAIRS, QUICK, FEW = 12_900_000, 1_000_000, 10_000
PROCESSES = 8
SECONDS, BYTES = 20, 3e9 / PAIRS  # 3 GB for all processes
BATCH, DIGITS = 32, 9


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Two rows. quick: two processes at one million pairs and at ten thousand, extrapolated."""
    sizes, counts = ((FEW, QUICK), (2,)) if quick else ((PAIRS,), (1, 2, PROCESSES))
    found: dict[tuple[int, int], Started] = {}
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_index(Path(folder), n)
            started(Path(folder), 1)  # so that the pages of the index and of the packages are in memory
            found |= {(n, k): started(Path(folder), k) for k in counts}
    last = found[sizes[-1], 2]
    seconds, total = last.seconds, found[sizes[-1], counts[-1]].total
    detail = "; ".join(
        f"{n:,} pairs, {k} processes: {s.seconds:.1f} s, of which {s.own:.2f} s on the data, {s.total / 1e9:.2f} GB"
        for (n, k), s in found.items()
    )
    if quick:
        least, more = found[FEW, 2], (PAIRS - QUICK) / (QUICK - FEW)
        seconds += max(0.0, last.own - least.own) * more
        total += max(0.0, last.total - least.total) * more
        detail += f"; extrapolated from these to {PAIRS:,} pairs"
    return [
        ratio_row("j", "start at 12.9 M pairs on two processes, seconds", seconds, SECONDS, "<=", detail),
        ratio_row("j", "resident bytes a pair over all processes", total / PAIRS, BYTES, "<=", detail),
    ]


class Started(NamedTuple):
    """seconds: from the start of the processes to the first batch of the last of them; own: those after the imports, of the
    slowest; total: bytes of all together, shared pages counted once."""

    seconds: float
    own: float
    total: int


def started(folder: Path, processes: int) -> Started:
    """Start so many processes, wait for the first batch of each, and end them."""
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.scale_of_data", str(folder)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(processes)]
    try:
        lines = [child.stdout.readline() for child in children if child.stdout is not None]
        if not all(lines):
            raise RuntimeError("a process ended before its first batch; its error is above")
        seconds = time.monotonic() - start
        total = sum(proportional_bytes(child.pid) for child in children)
        return Started(seconds, max(map(float, lines)), total)
    finally:
        for child in children:
            child.communicate()


def proportional_bytes(process: int) -> int:
    """Resident bytes of a process, each shared page divided by the number of processes that map it (PSS)."""
    rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))


def write_index(folder: Path, n: int) -> None:
    """An index of n pairs beside a table without rows."""
    from benchmarks.loader import photographs
    from cmapkd.core import fsio
    from cmapkd.data.columns.column import Column
    from cmapkd.data.columns.pictures import MEMBER, Pictures
    from cmapkd.data.columns.texts import Blobs, Captions, Texts, text_column
    from cmapkd.data.index import files
    from cmapkd.data.index.opening import BESIDE
    from cmapkd.data.index.stamps import stamp
    from cmapkd.data.readers import reading
    from cmapkd.data.samples import Known, Samples

    data = [file.read_bytes() for file in photographs(folder, 8)]
    (folder / "photographs").write_bytes(b"".join(data))
    sizes = np.array([len(one) for one in data])
    which = np.arange(n) % len(data)
    digits = (48 + np.arange(n)[:, None] // 10 ** np.arange(DIGITS)[::-1] % 10).astype(np.uint8)
    places = np.stack([(np.cumsum(sizes) - sizes)[which], sizes[which]], 1).view(np.uint8)
    rest = np.concatenate([places, digits], 1)
    rng = np.random.default_rng(0)
    ends = np.concatenate([[0], np.cumsum(rng.integers(40, 81, n))])
    words = " ".join(f"word{k:x}" for k in rng.integers(0, 2**14, 2**17)).encode()
    blob = np.resize(np.frombuffer(words, np.uint8), int(ends[-1]))
    samples = Samples(
        "synthetic",
        Column(Texts(digits.reshape(-1), np.arange(n + 1) * DIGITS)),
        Column(Pictures(np.zeros(n, np.int32), np.array([MEMBER], np.uint8),
                        text_column([str(folder / "photographs")]).source,
                        Blobs(rest.reshape(-1), np.arange(n + 1) * rest.shape[1]))),
        Column(Captions(Texts(blob, ends), np.arange(n + 1))),
        lengths=sizes[which], known=Known("0" * 64, 0, n),
    )  # fmt: skip
    table = folder / "pairs.csv"
    table.write_text("filepath,title\n")
    asked = reading(str(table), DataConfig(train=str(table)))
    fsio.make_folder(folder / BESIDE)
    about = files.About(asked.key(), "csv", str(table), (stamp(table),))
    files.write(folder / BESIDE / asked.name(), samples, about)


def _start(folder: Path) -> None:
    """The data part of a start: open the samples, build the loader, make one batch; then wait to be told to end."""
    import torch

    from cmapkd.data.duplicates import shared_captions
    from cmapkd.data.holdout import split_holdout
    from cmapkd.data.loader import InputSpec
    from cmapkd.data.open_loader import open_loader
    from cmapkd.data.readers import open_samples
    from cmapkd.towers.tokens.by_word import WordTokenizer

    torch.set_num_threads(1)
    begin = time.monotonic()
    data = DataConfig(train=str(folder / "pairs.csv"), holdout=0.05)
    samples = open_samples(data.train, data)
    _ = samples.fingerprint(), shared_captions(samples)
    pool, _ = split_holdout(len(samples), data.holdout)
    student = InputSpec(224, WordTokenizer(lambda word: list(word.encode()), str, str, 1, 2, 0, 77))
    loader = open_loader(samples, data, CorruptConfig(captions=0.1), student, None, BATCH, 0, pool)
    loader.batch(0)
    print(time.monotonic() - begin, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _start(Path(sys.argv[1]))
