"""`cmapkd distill`: from a config to a finished run folder."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import torch

from cmapkd.config.load import dump_config, load_config
from cmapkd.config.schema import Config
from cmapkd.config.tree import plain
from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.core.lease import exclusive
from cmapkd.core.log import MetricsLog, say
from cmapkd.data.duplicates import shared_captions
from cmapkd.export.run import export_student
from cmapkd.tasks.trained_head import TrainedHead, write_head
from cmapkd.towers.named import warn_of_random
from cmapkd.train import checkpoint
from cmapkd.train.assemble import assemble
from cmapkd.train.card_facts import facts
from cmapkd.train.centre import centred
from cmapkd.train.dry_run import EVALUATED, outlook, shortened
from cmapkd.train.loop import train
from cmapkd.train.saving import measure_saving, saying
from cmapkd.train.served import write_method_tensors
from cmapkd.train.state import Run
from cmapkd.train.teacher_score import teacher_metrics
from cmapkd.train.trackers import open_trackers

LOCK = ".lock"
SHARED = 0.01  # of the captions
SHOWN = ("image_retrieval_recall@1", "text_retrieval_recall@1", "mean_recall@1", "zeroshot/acc1")


def distill(config: Config, resume: bool = False, dry_run: bool = False) -> Path:
    """Train `config.student` by `config.method` and return the run folder.

    dry_run: the whole way in two steps, of which nothing is kept; what the run will take is said.
    Raises UsageError for an existing folder without `resume`, IntegrityError for a checkpoint of another config or a
    folder that another process trains in.
    """
    refuse_folder(config, resume)
    if dry_run:
        return _dry(config)
    with exclusive(config.run / LOCK):
        return _distill(config, prepare_folder(config, resume), resume)


def _dry(config: Config) -> Path:
    """Everything once in small, in a folder that goes again; returns the folder of the run to come."""
    small = shortened(config)
    try:
        outlook(config, _distill(small, prepare_folder(small, False), False, EVALUATED))
    finally:
        shutil.rmtree(small.run, ignore_errors=True)
    return config.run


def _distill(config: Config, folder: Path, resume: bool, evaluated: int | None = None) -> Path:
    """evaluated: at most so many samples of each task of a validation."""
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    started = time.time()
    try:
        run = assemble(config, folder, evaluated)
        warn(run)
        trackers = open_trackers(config)
        taught = teacher_metrics(config, evaluated) if run.teacher is not None else {}
    except BaseException:
        if not resume:  # nothing was trained yet, and the mended command shall not meet a folder that exists
            shutil.rmtree(folder)
        raise
    if taught:
        say("teacher: " + ", ".join(f"{name} {100 * taught[name]:.1f} %" for name in SHOWN if name in taught))
    torch.manual_seed(config.seed)
    start = restore(run) if resume else 0
    log = MetricsLog(folder / "metrics.jsonl", trackers)
    if start == 0:
        log.write({"kind": "start", "steps": run.steps, "steps_per_epoch": run.loader.steps_per_epoch, "parameters": sum(p.numel() for p in run.learner.student.parameters()),
                   "torch": torch.__version__, "threads": torch.get_num_threads()})  # fmt: skip
    say(f"{config.method}: {run.steps} steps of {config.train.batch}, student {config.student.model}, terms "
        + ", ".join(f"{k} {v:g}" for k, v in run.objective.weights.items()))  # fmt: skip
    began = time.monotonic()
    if start < run.steps:
        train(run, start, log)
    spent = {"train_seconds": round(time.monotonic() - began - run.validating, 1)} if start == 0 else {}
    plain = run.validate()
    with centred(run) as share:
        metrics = run.validate() if share else plain
        done = None if run.task is None else run.task.result(run.learner.student)
        export_student(run.learner.student, folder / "student", facts(run, metrics, share, done))
    figures = {} if done is None else {f"{config.task.name}/{k}": v for k, v in done.metrics.items() if v is not None}
    saving = measure_saving(run)
    if saving:
        say(saying(saving))
    log.write({"kind": "final", "step": run.steps, "samples": run.steps * run.loader.size,
               "seconds": round(time.time() - started, 1), **spent, **metrics, **figures,
               "centred": share, **({f"plain/{k}": v for k, v in plain.items()} if share else {}),
               "ledger": {"seen": run.loader.ledger.seen, "quarantined": len(run.loader.ledger.quarantined)},
               **({"saving": saving} if saving else {}),
               **({} if run.task is None else {"task_unreadable": run.task.unreadable})})  # fmt: skip
    say(f"student: {folder / 'student'} (open_clip local-dir)")
    if done is not None:
        keep_head(run, done)
    if (served := run.objective.method.served) is not None:
        known = 0 if run.objective.bank is None else len(run.objective.bank)
        tensors = write_method_tensors(run.learner, folder / "student", run.loader.samples, known)
        say(f"the scores belong to {served.says}, not to the student alone; what that takes beside it: {tensors}")
    return folder


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


def keep_head(run: Run, done: TrainedHead) -> None:
    """The task's head beside the student, and its figures in a line."""
    if done.said:
        say(done.said)
    if done.head is not None:
        write_head(run.config.task.name, done, plain(run.config.task), run.folder / "head")
        say(f"head: {run.folder / 'head'}")


def refuse_folder(config: Config, resume: bool) -> None:
    """Raise for a run folder that cannot be begun, or not be resumed."""
    folder = config.run
    if folder.is_file():
        raise UsageError(f"run {folder}: is a file; give another run folder")
    if not resume and folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise UsageError(
            f"run {folder}: already exists; a new run never overwrites an old one: --resume it or give another run"
        )
    if resume and not (folder / "config.yaml").is_file():
        raise UsageError(f"run {folder}: nothing to resume (no config.yaml); start it without --resume")
    if resume:
        refuse_other_config(folder, config, "cannot resume, ", "use the run's own config.yaml")


def prepare_folder(config: Config, resume: bool) -> Path:
    """The run folder with its config; what an interrupted write left is gone."""
    refuse_folder(config, resume)
    folder = config.run
    folder.mkdir(parents=True, exist_ok=True)
    fsio.sweep_temporaries(folder)
    fsio.write_bytes(folder / "config.yaml", dump_config(config).encode())
    if resume and (folder / "metrics.jsonl").is_file():
        fsio.repair_jsonl(folder / "metrics.jsonl")
    return folder


def refuse_other_config(folder: Path, config: Config, what: str, way_out: str) -> None:
    """Raise IntegrityError where a run's config is not `config`; keys that are new since have their defaults."""
    was = load_config(folder / "config.yaml")
    if was == config:
        return
    old, new = dict(_lines(dump_config(was))), _lines(dump_config(config))
    lost = [(key, "not set") for key in old if key not in dict(new)]
    key, value = next((k, v) for k, v in [*new, *lost] if old.get(k) != v)
    raise IntegrityError(f"run {folder}: {what}'{key}' is now {value} but was {old.get(key, 'not set')}; {way_out}")


def restore(run: Run) -> int:
    """Load the newest valid checkpoint; returns the step to go on with (0 when there is none yet)."""
    path = checkpoint.latest(run.folder / "checkpoints")
    if path is None:
        say("no checkpoint yet; starting from the beginning")
        return 0
    tensors, state = checkpoint.load_generation(path)

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    mine, theirs = run.learner.state_dict(), part("learner/")
    wrong = [k for k in mine if k not in theirs or theirs[k].shape != mine[k].shape]
    if wrong or set(theirs) - set(mine):
        raise IntegrityError(
            f"checkpoint {path}: is of another model (tensor {(wrong or sorted(set(theirs) - set(mine)))[0]} differs); put "
            f"the run's own checkpoints back, or move that folder away and resume from what is left"
        )
    run.learner.load_state_dict(theirs)
    run.policy.load_state_dict(part("policy/"))
    checkpoint.restore_optimizer(run.optimizer, part("optimizer/"), state["optimizer"])
    if run.policy_optimizer is not None:
        checkpoint.restore_optimizer(run.policy_optimizer, part("policy_optimizer/"), state["policy"])
    run.objective.weights.update(state["weights"])
    run.balance.table[:], run.balance.norms = state["balance"], state["norms"]
    run.best = float("-inf") if state["best"] is None else state["best"]
    torch.set_rng_state(tensors["rng/torch"])
    step = int(path.name.removeprefix("step-"))
    trim_metrics(run.folder / "metrics.jsonl", step)
    say(f"resuming {run.folder} at step {step}")
    return step


def trim_metrics(path: Path, step: int) -> None:
    """Drop log lines after `step`, so that a resumed run writes none twice."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text().splitlines() if json.loads(line).get("step", 0) <= step]
    fsio.write_bytes(path, "".join(f"{line}\n" for line in kept).encode())


def _lines(text: str) -> list[tuple[str, str]]:
    """(dotted key, value) of each leaf of a dumped config."""
    import yaml

    def walk(prefix: str, node: object) -> list[tuple[str, str]]:
        if isinstance(node, dict):
            return [
                leaf for key, value in node.items() for leaf in walk(f"{prefix}.{key}" if prefix else str(key), value)
            ]
        return [(prefix, str(node))]

    return walk("", yaml.safe_load(text))
