"""Runs side by side, each in a process of its own: one small student leaves most of a GPU, or of many cores, idle."""

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
PRELOAD = ["cmapkd.experiments.arms"]  # imported once, in the process that the others are forked from; it holds no GPU


def side_by_side(
    call: Callable[..., Answer], tasks: Sequence[tuple[Any, ...]], logs: Sequence[Path], jobs: int
) -> list[Answer]:
    """[call(*task) for task in tasks], `jobs` at a time; what task k says goes to logs[k].

    The first error ends the others by SIGTERM, after which runs are at a checkpoint, and is raised. Raises PeerLostError
    when a process dies, which out-of-memory killers do.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    progress = Progress(len(tasks), "runs")
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_end_with_parent) as pool:
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
            if isinstance(error, SystemExit):  # ending already; `timeout` sends its signal twice
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise PeerLostError(
                    f"--jobs {jobs}: a run's process died; the last lines of the logs beside {logs[0]} say which and "
                    "where; if memory ran out give fewer jobs, then repeat the command: finished runs are kept"
                ) from None
            raise
        progress.close()
        return [future.result() for future in futures]


def _logged(log: Path, call: Callable[..., Answer], task: tuple[Any, ...]) -> Answer:
    """Run the task with both of this process's streams in the log; a run that was told to stop ends its process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        return call(*task)
    except SystemExit as stop:
        os._exit(int(stop.code or 0))


def _end_with_parent() -> None:
    """A comparison that was killed leaves no run behind: each gets SIGTERM, saves a checkpoint and ends."""

    def watch(parent: BaseProcess) -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()
