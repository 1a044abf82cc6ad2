"""Worker processes, and the decoding of a batch by all of them."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from cmapkd.core.errors import DataError
from cmapkd.data.workers.job import Job, Message, Pixels, message_of, work
from cmapkd.data.workers.wire import receive, receive_array, send

Decode = Callable[[list[Job]], list[Pixels | str]]  # for each job its pixels, or why its image is unreadable
CHUNK = 16  # most images sent to a worker at once
BUFFER = 1 << 20


def decode_here(jobs: list[Job]) -> list[Pixels | str]:
    """Decode in the calling thread, one image after the other."""
    return [work(job) for job in jobs]


@contextlib.contextmanager
def decoding(workers: int) -> Iterator[Decode]:
    """A function that decodes lists of jobs on `workers` processes; with one worker, in the thread that calls it.

    Several threads may call it at a time. Results have the order of the jobs. Leaving the block ends the processes.
    """
    if workers == 1:
        yield decode_here
        return
    with Pool(workers) as pool:
        yield pool.decode


class Pool:
    """Worker processes, each served by a thread of this process that waits for its answers."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __enter__(self) -> Pool:
        self.idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self.started: list[Worker] = []
        self.threads = ThreadPoolExecutor(self.workers, thread_name_prefix="decoding")
        try:
            for _ in range(self.workers):
                self.started.append(Worker())
                self.idle.put(self.started[-1])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown(wait=True, cancel_futures=True)
        for worker in self.started:
            worker.close()

    def decode(self, jobs: list[Job]) -> list[Pixels | str]:
        """The results of all jobs, in their order. Raises DataError when a worker died."""
        size = max(1, min(CHUNK, len(jobs) // (2 * self.workers)))
        parts = [self.threads.submit(self._ask, jobs[k : k + size]) for k in range(0, len(jobs), size)]
        try:
            return [result for part in parts for result in part.result()]
        finally:
            for part in parts:
                part.cancel()

    def _ask(self, jobs: list[Job]) -> list[Pixels | str]:
        worker = self.idle.get()
        try:
            return worker.ask(jobs)
        finally:
            self.idle.put(worker)


class Worker:
    """A worker process and the socket to it."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            for end in (self.socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            command = [sys.executable, "-P", "-m", "cmapkd.data.workers.process", str(theirs.fileno())]
            places = os.pathsep.join(path or os.getcwd() for path in sys.path)
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": places}
            )

    def ask(self, jobs: list[Job]) -> list[Pixels | str]:
        """The results of some jobs of equal sizes, in their order. Raises DataError when the process died."""
        messages = [message_of(job) for job in jobs]
        sent = [message for message in messages if isinstance(message, Message)]
        answers = iter(self._exchange(sent, jobs[0].shown.sizes, jobs) if sent else [])
        return [message if isinstance(message, str) else next(answers) for message in messages]

    def _exchange(self, messages: list[Message], sizes: tuple[int, ...], jobs: list[Job]) -> list[Pixels | str]:
        try:
            send(self.socket, msgspec.msgpack.encode(messages))
            frame = receive(self.socket)
            reasons = [] if frame is None else msgspec.msgpack.decode(frame, type=list[str | None])
            count = reasons.count(None)
            arrays = [receive_array(self.socket, (count, 3, size, size)) for size in sizes] if reasons else [None]
        except (BrokenPipeError, ConnectionResetError):
            arrays = [None]
        columns = [array for array in arrays if array is not None]
        if len(columns) < len(sizes):
            raise self._died(jobs)
        rows = zip(*columns, strict=True)
        return [list(next(rows)) if reason is None else reason for reason in reasons]

    def _died(self, jobs: list[Job]) -> DataError:
        code = self.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        shown = ", ".join(str(job.picture) for job in jobs[:2]) + (" …" if len(jobs) > 2 else "")
        return DataError(
            f"a decoding process {how} while it read {shown}; is memory short (dmesg)? lower data.workers, or set it to 1 to "
            "decode without further processes, and check these images"
        )

    def close(self) -> None:
        """End the process."""
        self.socket.close()
        self.process.wait()
