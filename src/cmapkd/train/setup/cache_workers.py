"""`cmapkd cache --workers N`: worker processes on this machine that build one cache together. Imports no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from cmapkd.config.load import dump_config
from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.errors import CmapkdError, PeerLostError, UsageError
from cmapkd.core.log import NO_PROGRESS, Progress, say

COMMAND = (sys.executable, "-m", "cmapkd", "cache", "--config")
LOOK = 2.0  # seconds between two counts of the finished shards


@dataclass
class Worker:
    """A worker process, whose lines on stderr are relayed by a thread."""

    rank: int
    process: subprocess.Popen[str]
    relay: threading.Thread
    told: bool = False

    def fate(self) -> str:
        """Words for the end of a worker: its exit code, or the signal that killed it."""
        code = self.process.returncode
        how = (
            f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
        )
        return f"worker {self.rank} (process {self.process.pid}) {how}"


def cache_by_workers(config: Config, count: int) -> Path:
    """Build the cache of the config by `count` processes and return its folder.

    A worker that dies does not end the others, which take over its shards. Raises PeerLostError when all died, or the
    error class of their exit code when that is the same for all.
    """
    if config.cache.path is None:
        raise UsageError("cmapkd cache needs cache.path in the config; give it")
    said: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        one = structs.replace(config, cache=structs.replace(config.cache, workers=1))
        fsio.write_bytes(path, dump_config(one).encode())
        workers = [_start(path, rank, count, said) for rank in range(count)]
        try:
            _watch(workers, config.cache.path)
        finally:
            for worker in workers:
                if worker.process.poll() is None:
                    worker.process.terminate()
            for worker in workers:
                worker.process.wait()
                worker.relay.join()
    if all(worker.process.returncode for worker in workers):
        raise _lost(workers)
    return config.cache.path


def _start(config: Path, rank: int, count: int, said: set[str]) -> Worker:
    """Start a worker on its share of the processors; its local rank chooses its GPU."""
    share = _share(rank, count)
    threads = os.environ.get("OMP_NUM_THREADS", str(len(share)))
    process = subprocess.Popen(
        [*COMMAND, str(config)],
        env={**os.environ, "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": threads, NO_PROGRESS: "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, share)
    relay = threading.Thread(target=_relay, args=(process, said), daemon=True)
    relay.start()
    return Worker(rank, process, relay)


def _share(rank: int, count: int) -> list[int]:
    """The processors of a worker: all are shared out evenly; workers beyond their number take turns on them."""
    every = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return every[rank % len(every) :: count]


def _relay(process: subprocess.Popen[str], said: set[str]) -> None:
    """Print the lines of a worker, those that several workers say alike only once."""
    for line in process.stderr or ():
        text = line.rstrip()
        if text not in said:
            said.add(text)
            say(text)


def _watch(workers: list[Worker], folder: Path) -> None:
    """Wait for all workers, and show meanwhile how many shards are done."""
    looked, shown = 0.0, {}
    while alive := [worker for worker in workers if worker.process.poll() is None]:
        for worker in workers:
            if worker.process.returncode and not worker.told:
                worker.told = True
                say(f"{worker.fate()}; {len(alive)} of {len(workers)} go on")
        if time.monotonic() - looked > LOOK:
            looked = time.monotonic()
            for name, done, total in _counts(folder):
                shown.setdefault(name, Progress(total, f"{name} shards")).update(done)
        time.sleep(0.05)


def _counts(folder: Path) -> list[tuple[str, int, int]]:
    """(name, finished shards, all shards) of each store that is being built."""
    found = []
    for plan in folder.glob("*/building.json"):
        try:
            stated = json.loads(plan.read_bytes())
            total = -(-stated["rows"] // stated["shard_rows"])
        except (OSError, ValueError, KeyError):  # sealed meanwhile
            continue
        found.append((plan.parent.name, sum(1 for _ in plan.parent.glob("build/*.json")), total))
    return found


def _lost(workers: list[Worker]) -> CmapkdError:
    fates = "; ".join(worker.fate() for worker in workers)
    message = (
        f"cache --workers {len(workers)}: no worker finished: {fates}; what they wrote is kept: repeat the command"
    )
    codes = {worker.process.returncode for worker in workers}
    alike = [kind for kind in CmapkdError.__subclasses__() if codes == {kind.code}]
    return (alike or [PeerLostError])[0](message)
