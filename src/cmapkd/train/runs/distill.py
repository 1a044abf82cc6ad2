"""`cmapkd distill`: from a config to a finished run folder."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from cmapkd.config.load import dump_config
from cmapkd.config.schema import Config
from cmapkd.core import fsio, generators
from cmapkd.core.errors import error_of
from cmapkd.core.lease import exclusive
from cmapkd.core.log import MetricsLog, say
from cmapkd.core.order import keyed_hash
from cmapkd.data.duplicates import shared_captions
from cmapkd.data.sequence import order_note
from cmapkd.distributed.collectives import from_first, values_of_all
from cmapkd.distributed.group import is_first, joined, rank, world
from cmapkd.distributed.launch import launch
from cmapkd.distributed.place import place_of
from cmapkd.towers.named import warn_of_random
from cmapkd.train.loop import train
from cmapkd.train.records.recorder import Recorder
from cmapkd.train.runs.differences import refuse_differences
from cmapkd.train.runs.dry_run import EVALUATED, outlook, shortened
from cmapkd.train.runs.finish import finish
from cmapkd.train.runs.folder import LOCK, prepare_folder, refuse_folder, trim_metrics
from cmapkd.train.runs.teacher_score import teacher_metrics
from cmapkd.train.runs.trackers import open_trackers
from cmapkd.train.setup.assemble import assemble
from cmapkd.train.state import Run, restore_state

SHARED = 0.01  # of the captions
SHOWN = ("image_retrieval_recall@1", "text_retrieval_recall@1", "mean_recall@1", "zeroshot/acc1")


def distill(config: Config, resume: bool = False, dry_run: bool = False) -> Path:
    """Train `config.student` by `config.method` and return the run folder.

    dry_run: the whole way in two steps, of which nothing is kept; it says what the run will take.
    Raises UsageError for an existing folder without `resume`, IntegrityError for a checkpoint of another config or a
    folder that another process trains in, PeerLostError where a process of several is lost.
    """
    if config.train.devices > 1 and place_of().world == 1:
        return start_processes(config, resume, dry_run)
    with joined(config.train.timeout, config.train.device != "cpu"):
        refuse_differences(config)
        from_first(lambda: refuse_folder(config, resume))
        if dry_run:
            return _dry(config)
        with ExitStack() as held:
            if is_first():
                held.enter_context(exclusive(config.run / LOCK))
            return _distill(config, _prepared(config, resume), resume)


def start_processes(config: Config, resume: bool, dry_run: bool) -> Path:
    """The same in `train.devices` processes, which this one starts and waits for."""
    with tempfile.TemporaryDirectory(prefix="cmapkd-config-") as place:
        path = Path(place) / "config.yaml"
        fsio.write_bytes(path, dump_config(config).encode())
        flags = [flag for flag, on in (("--resume", resume), ("--dry-run", dry_run)) if on]
        if code := launch(config.train.devices, ["distill", "--config", str(path), *flags]):
            error = error_of(code, "")
            error.told = True
            raise error
    return config.run


def _prepared(config: Config, resume: bool) -> Path:
    from_first(lambda: str(prepare_folder(config, resume)))
    return config.run


def _dry(config: Config) -> Path:
    """Everything once in small, in a folder that goes again; returns the folder of the run to come."""
    small = shortened(config, from_first(os.getpid))
    try:
        folder = _distill(small, _prepared(small, False), False, EVALUATED)
        if is_first():
            outlook(config, folder)
    finally:
        if is_first():
            shutil.rmtree(small.run, ignore_errors=True)
    return config.run


def _distill(config: Config, folder: Path, resume: bool, evaluated: int | None = None) -> Path:
    """evaluated: at most so many samples of each task of a validation."""
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    started = time.time()
    run, trackers = _begin(config, folder, resume, evaluated)
    torch.manual_seed(config.seed)
    if world() > 1:
        generators.separate(keyed_hash(config.seed, rank()))
    start = _resumed(run) if resume else 0
    recorder = Recorder(run, MetricsLog(folder / "metrics.jsonl", trackers) if is_first() else None)
    if start == 0:
        size = sum(p.numel() for p in run.state.learner.student.parameters())
        recorder.write({"kind": "start", "steps": run.steps, "steps_per_epoch": run.loader.steps_per_epoch, "parameters": size,
                        "torch": torch.__version__, "threads": torch.get_num_threads(), "processes": world()})  # fmt: skip
    processes = f" on {world()} processes" if world() > 1 else ""
    if note := order_note(run.loader.order):
        say(note)
    say(f"{config.method}: {run.steps} steps of {config.train.batch}{processes}, student {config.student.model}, terms "
        + ", ".join(f"{k} {v:g}" for k, v in run.state.weights.items()))  # fmt: skip
    began = time.monotonic()
    if start < run.steps:
        train(run, start, recorder)
    spent = {"train_seconds": round(time.monotonic() - began - recorder.validating, 1)} if start == 0 else {}
    figures = finish(run)
    recorder.write({"kind": "final", "step": run.steps, "samples": run.steps * run.loader.size,
                    "seconds": round(time.time() - started, 1), **spent, **figures})  # fmt: skip
    generators.unite()
    values_of_all(None)  # the others return when all is written
    return folder


def _begin(config: Config, folder: Path, resume: bool, evaluated: int | None) -> tuple[Run, list[Callable]]:
    """(the run, its trackers), after the teacher's own score was told."""
    try:
        run = assemble(config, folder, evaluated)
        warn(run)
        trackers = open_trackers(config) if is_first() else []
        scores = from_first(lambda: teacher_metrics(config, evaluated) if run.teacher is not None else {})
    except BaseException:
        if (
            not resume and is_first()
        ):  # nothing was trained yet, and the mended command shall not meet a folder that exists
            shutil.rmtree(folder)
        raise
    if scores:
        say("teacher: " + ", ".join(f"{name} {100 * scores[name]:.1f} %" for name in SHOWN if name in scores))
    return run, trackers


def _resumed(run: Run) -> int:
    """The step to go on with, the state restored and later log lines dropped."""
    step = restore_state(run)
    if step:
        if is_first():
            trim_metrics(run.folder / "metrics.jsonl", step)
        say(f"resuming {run.folder} at step {step}")
    return step


def warn(run: Run) -> None:
    """Say what makes a run's figures worth little and is cheap to see before it begins."""
    if run.teacher is not None and run.config.teacher is not None:
        warn_of_random(run.config.teacher, "teacher.model")
    samples = run.loader.samples
    if (shared := shared_captions(samples)) > SHARED * samples.n_captions:
        say(
            f"warning: {shared} of {samples.n_captions} captions stand at other images too, word for word; in one batch "
            "they count as negatives of each other's images"
        )
