"""Runs in parallel processes: one small student leaves most of a GPU, or of many cores, idle."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from cmapkd.core.errors import PeerLostError
from cmapkd.core.log import Progress

Answer = TypeVar("Answer")
PRELOAD = ["cmapkd.experiments.arms"]  # imported once, in the fork server; it holds no GPU


def run_parallel(
    call: Callable[..., Answer], tasks: Sequence[tuple[Any, ...]], logs: Sequence[Path], jobs: int
) -> list[Answer]:
    """Call `call(*task)` for every task in `jobs` processes; returns the results in order. Task k writes to logs[k].

    The first error is raised after the other processes got SIGTERM, on which runs save a checkpoint and end. Raises
    PeerLostError when a process dies, for instance by the out-of-memory killer.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    progress = Progress(len(tasks), "runs")
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_begin, initargs=(jobs,)) as pool:
        futures = [pool.submit(_logged, log, call, task) for log, task in zip(logs, tasks, strict=True)]
        try:
            waiting, done = set(futures), 0
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    done += 1
                    progress.update(done, logs[futures.index(future)].stem)
        except BaseException as error:
            if isinstance(error, SystemExit):  # already ending; `timeout` sends its signal twice
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise PeerLostError(
                    f"--jobs {jobs}: a run's process died; the logs beside {logs[0]} end where it did; if memory ran out "
                    "give fewer jobs, then repeat the command: finished runs are kept"
                ) from None
            raise
        progress.close()
        return [future.result() for future in futures]


def _logged(log: Path, call: Callable[..., Answer], task: tuple[Any, ...]) -> Answer:
    """Run the task with stdout and stderr in the log; SystemExit ends this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        return call(*task)
    except SystemExit as stop:
        os._exit(int(stop.code or 0))


def _begin(jobs: int) -> None:
    """Prepare a process: it takes its share of the processors for reading, and ends with its parent."""
    os.environ["LOCAL_WORLD_SIZE"] = str(jobs)
    _end_with_parent()


def _end_with_parent() -> None:
    """Send this process SIGTERM when its parent dies: its run saves a checkpoint and ends."""

    def watch(parent: BaseProcess) -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()
