"""`cmapkd distill`: from a config to a finished run folder."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cmapkd.cache.build import fit_targets, open_cached_teacher
from cmapkd.cache.teacher import LiveTeacher, Teacher
from cmapkd.config.load import dump_config
from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.core.log import MetricsLog, say
from cmapkd.core.order import permute
from cmapkd.core.types import LEVELS
from cmapkd.data.loader import Loader, Reader
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.export.run import export_student
from cmapkd.methods import Method, resolve
from cmapkd.methods.terms import READS_BRIDGE, READS_LEVELS
from cmapkd.models.load import load_tower
from cmapkd.models.targets import Targets
from cmapkd.models.tower import Shape, Tower
from cmapkd.policy import POLICIES
from cmapkd.tasks.validation import merged, open_validation
from cmapkd.train import checkpoint
from cmapkd.train.balance import Balance
from cmapkd.train.learner import build_learner
from cmapkd.train.loop import Run, teach, train
from cmapkd.train.objective import Objective
from cmapkd.train.optimizer import build_optimizer
from cmapkd.train.schedule import at, resolve_schedule
from cmapkd.train.teacher_score import teacher_metrics

UNIT_BATCHES = 4
CLASS_TEXT = "a photo of a {}"
SHOWN = ("image_retrieval_recall@1", "text_retrieval_recall@1", "mean_recall@1", "zeroshot/acc1")


def distill(config: Config, resume: bool = False, dry_run: bool = False) -> Path:
    """Train `config.student` by `config.method` and return the run folder.

    Raises UsageError for an existing folder without `resume`, IntegrityError for a checkpoint of another config.
    """
    if dry_run:
        config = shortened(config)
    folder = prepare_folder(config, resume)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    started = time.time()
    try:
        run = assemble(config, folder)
    except BaseException:
        if not resume:  # nothing was trained yet, and the mended command shall not meet a folder that exists
            shutil.rmtree(folder)
        raise
    taught = teacher_metrics(config) if run.teacher is not None else {}
    if taught:
        say("teacher: " + ", ".join(f"{name} {100 * taught[name]:.1f} %" for name in SHOWN if name in taught))
    torch.manual_seed(config.seed)
    start = restore(run) if resume else 0
    log = MetricsLog(folder / "metrics.jsonl")
    if start == 0:
        log.write({"kind": "start", "steps": run.steps, "parameters": sum(p.numel() for p in run.learner.student.parameters()),
                   "torch": torch.__version__, "threads": torch.get_num_threads()})  # fmt: skip
    say(f"{config.method}: {run.steps} steps of {config.train.batch}, student {config.student.model}, terms "
        + ", ".join(f"{k} {v:g}" for k, v in run.objective.weights.items()))  # fmt: skip
    if start < run.steps:
        train(run, start, log)
    metrics = run.validate()
    log.write({"kind": "final", "step": run.steps, "seconds": round(time.time() - started, 1), **metrics,
               "ledger": {"seen": run.loader.ledger.seen, "quarantined": len(run.loader.ledger.quarantined)}})  # fmt: skip
    export_student(run.learner.student, folder / "student", facts(run, metrics))
    say(f"student: {folder / 'student'} (open_clip local-dir)")
    return folder


def assemble(config: Config, folder: Path) -> Run:
    """Build everything that a run consists of; every check that can fail early fails here."""
    method, stages = resolve(config.method, config.weights, config.share), resolve_schedule(config.schedule)
    if config.policy.name not in POLICIES:
        raise UsageError(f"policy.name '{config.policy.name}' is unknown; known: {', '.join(POLICIES)}")
    samples = open_samples(config.data.train, config.data, config.data.train_split)
    for note in samples.notes:
        say(f"data: {note}")
    pool, held = split_holdout(len(samples), config.data.holdout)
    device = pick_device(config.train.device)
    teacher, targets, shape, tower = open_teacher(config, method, samples, device)
    torch.manual_seed(config.seed)
    captions = samples.flat_captions() if config.student.tokenizer.startswith("train:") else ()
    student = load_tower(config.student, captions, folder / "tokenizer", config.teacher, config.cache.words)
    student.to(device)
    terms = set(method.weights)
    learner = build_learner(student, shape, targets, bool(terms & READS_BRIDGE), bool(terms & READS_LEVELS)).to(device)
    mine = Reader(student.size, student.tokenizer)
    theirs = (
        Reader(tower.size, tower.tokenizer)
        if tower is not None and teacher is not None and teacher.needs_inputs
        else None
    )
    loader = Loader(samples, config.data, mine, theirs, config.train.batch, config.seed, pool)
    steps = config.train.steps or max(1, round(float(config.train.epochs or 0) * loader.steps_per_epoch))
    held_out = (
        Loader(samples, config.data, mine, theirs, min(config.train.batch, len(held)), config.seed, held)
        if len(held)
        else None
    )
    policy = POLICIES[config.policy.name](config.policy, shape.embedding if shape else student.shape.embedding).to(
        device
    )
    if policy.learns and held_out is None:
        raise UsageError(
            f"policy.name '{config.policy.name}' learns from held-out pairs, but data.holdout is 0; set data.holdout: 0.05"
        )
    labels, class_ids = labelled(samples, student, device) if "task" in terms else (None, None)
    pairs = None if targets is None else targets.pairs
    objective = Objective(learner, method, dict(method.weights), pairs, labels, class_ids)
    run = Run(
        config, folder, steps, learner, build_optimizer(learner, config.train), loader, stages, objective,
        Balance(method.share, steps), policy,
        torch.optim.Adam(policy.parameters(), lr=config.policy.lr) if policy.learns else None,
        teacher, held_out, validator(config, student),
    )  # fmt: skip
    measure_units(run)
    return run


def labelled(samples: Samples, student: Tower, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(labels of all samples, token ids of the class texts) for L_task. Raises UsageError for data without labels."""
    if samples.labels is None or samples.classes is None:
        raise UsageError(
            f"weights.task needs labelled data, but {samples.name} has captions only; give an image folder or drop it"
        )
    ids, _ = student.tokenizer([CLASS_TEXT.format(name) for name in samples.classes])
    return torch.tensor(samples.labels, device=device), ids.to(device)


def open_teacher(
    config: Config, method: Method, samples: Samples, device: torch.device
) -> tuple[Teacher | None, Targets | None, Shape | None, Tower | None]:
    """(teacher, targets, its shape, its tower or None). A finished cache never wakes the model."""
    if not method.needs_teacher:
        return None, None, None, None
    if config.teacher is None:
        raise UsageError(f"method '{config.method}' needs a teacher; set teacher.model, or method: scratch")
    if config.cache.path is not None:
        teacher, targets, shape = open_cached_teacher(config, samples)
        return teacher, targets.to(device), shape, None
    tower = load_tower(config.teacher, words=config.cache.words).to(device)
    tower.requires_grad_(False)
    targets = fit_targets(config, tower, samples).to(device)
    precision = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    return LiveTeacher(tower, targets, precision), targets, tower.shape, tower


def measure_units(run: Run) -> None:
    """The learner's FVU denominators, from the teaching of the first training batches."""
    moment = replace(at(run.stages, 0.0), levels=LEVELS)
    if run.teacher is None or not run.objective.levels(moment):
        return
    count = min(UNIT_BATCHES, run.steps)
    teachings = [teach(run, run.teacher, run.loader.batch(step), moment) for step in range(count)]
    run.learner.measure_units([t for t in teachings if t is not None])


def split_holdout(n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """(training pool, policy hold-out) of sample indices, by a fixed keyed permutation; disjoint, train split only."""
    order = permute(np.arange(n), n, 0, 0)
    cut = n - round(share * n)
    return np.sort(order[:cut]), np.sort(order[cut:])


def validator(config: Config, student: Tower) -> Callable[[], dict[str, float]]:
    """A function that scores the student on the config's validation data; {} where there is none."""
    validation = open_validation(config)
    return lambda: merged(validation.scores(student))


def prepare_folder(config: Config, resume: bool) -> Path:
    folder = config.run
    if folder.is_file():
        raise UsageError(f"run {folder}: is a file; give another run folder")
    exists = folder.is_dir() and any(folder.iterdir())
    if exists and not resume:
        raise UsageError(
            f"run {folder}: already exists; a new run never overwrites an old one: --resume it or give another run"
        )
    if resume and not (folder / "config.yaml").is_file():
        raise UsageError(f"run {folder}: nothing to resume (no config.yaml); start it without --resume")
    text = dump_config(config)
    if resume and (folder / "config.yaml").read_text() != text:
        old = dict(_lines((folder / "config.yaml").read_text()))
        key, value = next(((k, v) for k, v in _lines(text) if old.get(k) != v), ("?", "?"))
        raise IntegrityError(
            f"run {folder}: cannot resume, '{key}' is now {value} but was {old.get(key)}; use the run's own config.yaml"
        )
    folder.mkdir(parents=True, exist_ok=True)
    fsio.sweep_temporaries(folder)
    fsio.write_bytes(folder / "config.yaml", text.encode())
    if resume and (folder / "metrics.jsonl").is_file():
        fsio.repair_jsonl(folder / "metrics.jsonl")
    return folder


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
            f"checkpoint {path}: is of another model (tensor {(wrong or sorted(set(theirs) - set(mine)))[0]} differs)"
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


def shortened(config: Config) -> Config:
    """The dry run: two steps of real data, in a folder of its own."""
    run = config.run.with_name(f"{config.run.name}-dry-{os.getpid()}")
    length = config.train.model_copy(update={"steps": 2, "epochs": None, "checkpoint_every": 2})
    return config.model_copy(update={"run": run, "train": length})


def facts(run: Run, metrics: dict[str, float]) -> dict[str, object]:
    """What the model card says."""
    samples, config = run.loader.samples, run.config
    scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    return {
        "name": f"{config.student.model} by {config.method}",
        "license": "other",
        "method": config.method,
        "teacher": config.teacher.model if config.teacher and run.teacher else None,
        "student": config.student.model,
        "data": [f"{samples.name}: {len(samples)} images, {samples.n_captions} captions, {samples.fingerprint()[:12]}"],
        "scores": [f"{config.data.val}: {scores}"] if scores else ["not evaluated (data.val is not set)"],
        "training": f"{run.steps} steps of {config.train.batch}, seed {config.seed}, lr {config.train.lr:g}",
        "synthetic": config.data.train.startswith("scenes:"),
        "command": f"cmapkd distill --config {run.folder.name}/config.yaml",
    }


def pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UsageError(f"train.device '{name}' is not a device; use auto, cpu or cuda") from None


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
