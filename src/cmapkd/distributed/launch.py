"""Start of several processes on this machine, `--devices N`, as torchrun would: the same command in each, with its place in the environment. No torch."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from cmapkd.core.errors import PeerLostError
from cmapkd.core.log import say
from cmapkd.core.prefetch import processors
from cmapkd.distributed.place import Place

POLL = 0.05  # seconds
CAUSE = 5.0  # seconds after the first end in which the process at fault may end, too
GRACE = 30.0  # seconds that the others have to save and end
HANGING = 2.0  # seconds for one that another has given up
LINES = 3  # of the log of a failed process that are shown


def launch(count: int, words: Sequence[str]) -> int:
    """Run `cmapkd WORDS` in `count` processes and wait for them; gives the exit code of the one that failed first, or 0.

    Rank 0 writes its messages to this terminal. The others write to files that are shown where one of them fails. A signal to this process
    goes to all of them. Raises PeerLostError, naming the rank, where a process was killed.
    """
    with tempfile.TemporaryDirectory(prefix="cmapkd-ranks-") as folder:
        logs = [Path(folder) / f"rank-{rank}.log" for rank in range(count)]
        processes = _start(count, words, logs)
        before = {number: signal.signal(number, _forwarder(processes)) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            failed = _wait(processes)
        finally:
            given_up = any(process.returncode == PeerLostError.code for process in processes)
            _end(processes, HANGING if given_up else GRACE)
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0 if failed is None else _report(failed, processes[failed], logs[failed])


def _start(count: int, words: Sequence[str], logs: Sequence[Path]) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(max(1, processors() // count))
    processes = []
    for rank, log in enumerate(logs):
        place = Place(rank, count, rank, count, "127.0.0.1", port)
        environment = {"OMP_NUM_THREADS": threads, **os.environ, **place.environment()}
        with log.open("wb") as file:
            command = [sys.executable, "-m", "cmapkd", *words]
            out, said = (subprocess.DEVNULL, None) if rank == 0 else (file, file)
            # a session of its own: a Ctrl-C at the terminal reaches only this process, which passes it on once
            processes.append(
                subprocess.Popen(command, env=environment, stdout=out, stderr=said, start_new_session=True)
            )
    return processes


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The rank that failed first, None when all ended well.

    A process that was killed, or failed by itself, is at fault; those that lost it and say so (code 7) are not.
    """
    since = None
    while True:
        codes = [process.poll() for process in processes]
        bad = [rank for rank, code in enumerate(codes) if code]
        if not bad:
            if None not in codes:
                return None
            time.sleep(POLL)
            continue
        since = since or time.monotonic()
        at_fault = [rank for rank in bad if codes[rank] != PeerLostError.code]
        if at_fault or None not in codes or time.monotonic() - since > CAUSE:
            return (at_fault or bad)[0]
        time.sleep(POLL)


def _end(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> None:
    """End those that still run: they may save first; one that does not end in time is killed."""
    hanging = time.monotonic() + grace
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(max(0.1, hanging - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _report(rank: int, process: subprocess.Popen[bytes], log: Path) -> int:
    """Say why the rank failed, where it could not say so on the terminal itself; gives the exit code of the run."""
    if process.returncode < 0 and -process.returncode not in (signal.SIGTERM, signal.SIGINT):
        raise PeerLostError(
            f"rank {rank} (process {process.pid}) was killed by {signal.Signals(-process.returncode).name}; if memory ran out, lower "
            "train.batch or --devices; what was saved is intact: repeat the command with --resume"
        )
    for line in log.read_text(errors="replace").splitlines()[-LINES:]:
        say(line)
    return process.returncode if process.returncode > 0 else 128 - process.returncode


def _forwarder(processes: Sequence[subprocess.Popen[bytes]]) -> Callable[[int, FrameType | None], None]:
    def forward(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    return forward
