"""assemble: from a config to a Run, everything that one training consists of; what can fail early fails here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cmapkd.config.schema import Config
from cmapkd.core.device import pick_device, pick_precision
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.core.tree import move
from cmapkd.core.types import LEVELS
from cmapkd.data.class_prompt import CLASS_PROMPT
from cmapkd.data.holdout import split_holdout
from cmapkd.data.loader import Reader
from cmapkd.data.pixels import open_pixels
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.methods import METHODS, TERMS, check_options, reading, resolve
from cmapkd.methods.term import Method
from cmapkd.policy import POLICIES
from cmapkd.policy.base import Learning
from cmapkd.pyramid.levels import Shape
from cmapkd.pyramid.targets import Targets
from cmapkd.tasks.open_loss import open_task
from cmapkd.tasks.validation import open_validation
from cmapkd.teacher.calibration import fit_targets
from cmapkd.teacher.class_texts import Bank, open_bank
from cmapkd.teacher.ensemble import open_ensemble
from cmapkd.teacher.faults import corrupted, open_loader
from cmapkd.teacher.final_only import FinalTeacher
from cmapkd.teacher.layout import cache_key
from cmapkd.teacher.live import LiveTeacher
from cmapkd.teacher.protocol import Teacher
from cmapkd.teacher.reopen import open_cached_teacher
from cmapkd.towers.dual import Tower
from cmapkd.towers.load import load_tower
from cmapkd.towers.named import identity
from cmapkd.towers.text_final import require_text_levels
from cmapkd.train.balance import Balance
from cmapkd.train.dry_run import few
from cmapkd.train.learner import build_learner
from cmapkd.train.objective import Objective
from cmapkd.train.optimizer import build_optimizer
from cmapkd.train.schedule import at, resolve_schedule
from cmapkd.train.served import validator
from cmapkd.train.start_projectors import fit_necks
from cmapkd.train.start_student import start_from_teacher
from cmapkd.train.state import Run, teach

UNIT_BATCHES = 4


@dataclass(frozen=True)
class Taught:
    """Whom a run learns from. tower: the teacher itself, where it runs live or a term reads it; else None.

    targets: None for a teacher without text levels, which gives final embeddings only.
    """

    teacher: Teacher
    targets: Targets | None
    shape: Shape
    tower: Tower | None


def assemble(config: Config, folder: Path, evaluated: int | None = None) -> Run:
    """Build everything that a run consists of. The student is initialised right after the seed is set.

    evaluated: at most so many samples of each task of a validation.
    """
    method = resolve(config.method, config.weights, config.share)
    check_options(config.options, {**METHODS[config.method].weights, **method.weights})
    check_student(config, method)
    stages = resolve_schedule(config.schedule, method)
    if config.policy.name not in POLICIES:
        raise UsageError(f"policy.name '{config.policy.name}' is unknown; known: {', '.join(POLICIES)}")
    make_task = open_task(config, "task" in method.weights, method.student == "trained")
    samples = open_samples(config.data.train, config.data, config.data.train_split)
    for note in samples.notes:
        say(f"data: {note}")
    validation = few(open_validation(config), evaluated)  # a wrong data.val is told before the teacher runs
    pool, held = split_holdout(len(samples), config.data.holdout)
    device = pick_device(config.train.device)
    terms = list(method.weights)
    taught = open_teacher(config, terms, samples, device)
    torch.manual_seed(config.seed)
    captions = samples.flat_captions() if config.student.tokenizer.startswith("train:") else ()
    student = load_tower(config.student, captions, folder / "tokenizer", config.teacher, config.cache.words)
    require_text_levels(student, "student.model", level_readers(config, terms))
    student.to(device).channels_last().requires_grad_(method.student == "trained")
    if inherits := method.inherits(config.student.inherit):
        start_from_teacher(config, student, samples, taught.tower if taught else None)
    bank = open_bank(samples, taught.tower, taught.teacher) if taught and reading("bank", terms) else None
    shape, targets, tower = (taught.shape, taught.targets, taught.tower) if taught else (None, None, None)
    classes = 0 if bank is None else len(bank.texts)
    learner = build_learner(student, shape, targets, terms, len(samples), classes, tower).to(device)
    optimizer = build_optimizer(learner, config.train)
    task = None if make_task is None else make_task(student)
    if task is not None and task.module is not None:
        learner.head = task.module
        add_head(optimizer, task.module, config)
    mine = Reader(student.size, student.tokenizer)
    live = tower is not None and (reading("inputs", terms) or taught is not None and taught.teacher.needs_inputs)
    theirs = Reader(tower.size, tower.tokenizer) if tower is not None and live else None
    kept = open_pixels(config, samples, student.size)
    loader = open_loader(config, samples, mine, theirs, config.train.batch, config.seed, pool, kept)
    steps = config.train.steps or max(1, round(float(config.train.epochs or 0) * loader.steps_per_epoch))
    batch = min(config.train.batch, len(held))
    held_out = open_loader(config, samples, mine, theirs, batch, config.seed, held, kept) if len(held) else None
    policy = POLICIES[config.policy.name](config.policy, shape.embedding if shape else student.shape.embedding)
    policy.to(device)
    if policy.learns and held_out is None:
        raise UsageError(
            f"policy.name '{config.policy.name}' learns from held-out pairs, but data.holdout is 0; set data.holdout: 0.05"
        )
    labels, class_ids = labels_of(samples, student, bank, terms if task is None else [], device)
    pairs = None if targets is None else targets.pairs
    texts = None if bank is None else bank.texts.to(device)
    objective = Objective(
        learner, method, dict(method.weights), pairs, labels, class_ids, texts, task is not None, config.options
    )
    run = Run(
        config, folder, steps, learner, optimizer, loader, stages, objective,
        Balance(method.share, steps), policy,
        torch.optim.Adam(policy.parameters(), lr=config.policy.lr) if list(policy.parameters()) else None,
        taught.teacher if taught else None, held_out,
        validator(validation, method, learner, tower, samples.classes if bank is None or not bank.pseudo else None),
        task,
    )  # fmt: skip
    first_lessons(run, inherits)
    return run


def check_student(config: Config, method: Method) -> None:
    """Raise UsageError for a frozen student that knows nothing, and for terms that cannot stand without their method."""
    if method.served is not None and (lost := [t for t in METHODS[config.method].weights if t not in method.weights]):
        raise UsageError(f"weights.{lost[0]}: 0 leaves nothing of method '{config.method}'; give it a weight")
    if method.served is None and (worn := [name for name in method.weights if TERMS[name].around is not None]):
        raise UsageError(f"weights.{worn[0]}: the student alone is not its result; set method: {worn[0]} instead")
    if method.student == "trained":
        return
    if method.share:
        raise UsageError(f"share.{next(iter(method.share))}: method '{config.method}' trains no trunk; drop it")
    if identity(config.student)["weights"] == "random":
        raise UsageError(
            f"method '{config.method}' keeps the student as it is, but student.model {config.student.model} has no "
            "weights; set student.weights, or student.model: local-dir:FOLDER of a trained model"
        )


def labels_of(
    samples: Samples, student: Tower, bank: Bank | None, terms: list[str], device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """(label of every sample, token ids of the class texts), each where a term needs it.

    Raises UsageError for L_task on data without labels; a bank brings labels of its own where the data have none.
    """
    if "task" not in terms:
        return (None if bank is None else bank.labels.to(device)), None
    if samples.labels is None or samples.classes is None:
        raise UsageError(
            f"weights.task needs labelled data, but {samples.name} has captions only; give an image folder, or a task "
            "with data of its own (task.name, task.train), or drop it"
        )
    ids, _ = student.tokenizer([CLASS_PROMPT.format(name) for name in samples.classes])
    return torch.tensor(samples.labels, device=device), ids.to(device)


def add_head(optimizer: torch.optim.AdamW, head: nn.Module, config: Config) -> None:
    """The task's head in groups of its own; the loop keeps their rate at `factor` times the others'."""
    factor = (config.task.lr or config.train.lr) / config.train.lr
    for group in build_optimizer(head, config.train).param_groups:
        optimizer.add_param_group({**group, "factor": factor})


def open_teacher(config: Config, terms: list[str], samples: Samples, device: torch.device) -> Taught | None:
    """The teacher that `terms` read, or None. A finished cache wakes the model only for terms that read itself."""
    if not reading("teacher", terms):
        return None
    if config.teacher is None:
        raise UsageError(f"method '{config.method}' needs a teacher; set teacher.model, or method: scratch")
    itself = reading("inputs", terms) | reading("bank", terms)
    tower = None
    if config.cache.path is None or itself:
        tower = load_tower(config.teacher, words=config.cache.words).to(device).requires_grad_(False)
    if config.cache.path is not None:
        teacher, targets, shape = open_cached_teacher(config, samples)
        teacher.device = device
        teacher = corrupted(teacher, config, samples)
        if reading("ensemble", terms):
            key, views = cache_key(config, samples), config.data.views
            teacher = open_ensemble(teacher, config.cache.ensemble, key, views, device)
        return Taught(teacher, targets.to(device), shape, tower)
    assert tower is not None
    require_text_levels(tower, "teacher.model", level_readers(config, terms))
    if not tower.text.has_levels:
        final = FinalTeacher(tower, pick_precision(config.train.precision, device))
        return Taught(corrupted(final, config, samples), None, tower.shape, tower)
    targets = fit_targets(config, tower, samples).to(device)
    return Taught(
        corrupted(LiveTeacher(tower, targets, pick_precision(config.train.precision, device)), config, samples),
        targets, tower.shape, tower,
    )  # fmt: skip


def level_readers(config: Config, terms: list[str]) -> list[str]:
    """The terms, and the policy, that read the levels of both towers."""
    readers = sorted(reading("levels", terms) | reading("pooled", terms) | reading("bridge", terms))
    return readers + ([f"policy {config.policy.name}"] if POLICIES[config.policy.name].reads_bridge else [])


def first_lessons(run: Run, inherits: bool) -> None:
    """What the first training batches tell: the learner's FVU denominators, the levels' costs, an inherited student's necks."""
    moment = replace(at(run.stages, 0.0), levels=LEVELS)
    if run.teacher is None or not (run.objective.levels(moment) or inherits):
        return
    count = min(UNIT_BATCHES, run.steps)
    batches = [move(run.loader.batch(step), run.learner.unit.device) for step in range(count)]
    lessons = [(batch, t) for batch in batches if (t := teach(run, batch, moment)) is not None]
    if inherits and run.learner.necks is not None:
        fit_necks(run.learner, lessons)
    if not run.objective.levels(moment):
        return
    run.learner.measure_units([teaching for _, teaching in lessons])
    if isinstance(run.policy, Learning):
        size = torch.tensor([float(lessons[0][1].levels[k].numel()) for k in LEVELS])
        run.policy.cost.copy_(len(LEVELS) * size / size.sum())
