"""Assembly of a run from its config, one builder a part; mistakes that can be found early are found here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from msgspec import structs
from torch import Tensor

from cmapkd.config.schema import Config
from cmapkd.core.device import pick_precision
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.core.types import SIDES
from cmapkd.data.class_prompt import CLASS_PROMPT
from cmapkd.data.loader import InputSpec, Loader
from cmapkd.data.open_loader import open_loader
from cmapkd.data.pixels import open_pixels
from cmapkd.data.samples import Samples
from cmapkd.distributed.collectives import first_before_others, share_
from cmapkd.distributed.group import rank, world
from cmapkd.methods import FINAL, reading
from cmapkd.methods.method import Method
from cmapkd.methods.objective import Facts, Objective
from cmapkd.methods.term import TermSizes
from cmapkd.policy import POLICIES, Policy
from cmapkd.tasks.task_loss import TaskLoss
from cmapkd.tasks.validation import Validation
from cmapkd.teacher.class_texts import ClassTexts, open_class_texts
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.freeze import freeze
from cmapkd.towers.load import load_tower
from cmapkd.train.balance import Balance
from cmapkd.train.blocks import compile_blocks, recompute_activations
from cmapkd.train.ema import Ema
from cmapkd.train.learner import Learner, build_learner, build_terms
from cmapkd.train.optimizer import build_optimizer
from cmapkd.train.setup.availability import Model, available, by_reason, common_levels
from cmapkd.train.setup.first_batches import learn_from_first_batches
from cmapkd.train.setup.plan import Plan, plan_run
from cmapkd.train.setup.start_student import start_from_teacher
from cmapkd.train.setup.teachers import OpenedTeacher, open_teacher
from cmapkd.train.state import Run, TrainState
from cmapkd.train.validation import neighbours
from cmapkd.train.validation.served import validator

TOKENIZED = 1_000_000  # captions that a tokenizer is trained on, at most


def assemble(config: Config, folder: Path, evaluated: int | None = None) -> Run:
    """Build everything that a run consists of. The student is initialised right after the seed is set.

    evaluated: at most so many samples of each task of a validation.
    """
    plan = plan_run(config, evaluated)
    opened = open_teacher(config, plan.method.weights, plan.samples, plan.device)
    torch.manual_seed(config.seed)
    with first_before_others():  # it may write a tokenizer, and what the student inherits
        student = build_student(config, plan, opened, folder / "tokenizer")
    plan = for_models(config, plan, opened, student)
    texts = class_texts_of(plan, opened)
    learner = learner_of(config, plan, student, opened, texts)
    optimizer, task = build_optimizer(learner, config.train), None
    if plan.open_task is not None:
        task = plan.open_task(student)
        add_head(learner, optimizer, task, config)
    ema = ema_of(config, plan, learner)
    loader, held_out = loaders(config, plan, student, opened)
    policy = policy_of(config, learner, opened, held_out)
    weights = dict(plan.method.weights)
    objective = Objective(
        plan.method,
        learner.terms_by_name,
        weights,
        facts_of(plan, opened, texts),
        task is not None,
        student.kept is not None,
    )
    steps = config.train.steps or max(1, round(float(config.train.epochs or 0) * loader.steps_per_epoch))
    policy_optimizer = torch.optim.Adam(policy.parameters(), lr=config.policy.lr) if list(policy.parameters()) else None
    balance = Balance(plan.method.share, steps)
    classes = plan.samples.classes if texts is None or not texts.pseudo else None
    run = Run(
        config=config,
        folder=folder,
        steps=steps,
        precision=pick_precision(config.train.precision, plan.device),
        stages=plan.stages,
        loader=loader,
        held_out=held_out,
        teacher=opened.teacher if opened else None,
        objective=objective,
        validate=validator(plan.validation, plan.method, learner, opened.tower if opened else None, classes, config),
        task=task,
        state=TrainState(learner, optimizer, weights, balance, policy, policy_optimizer, ema=ema),
        levels=plan.levels,
    )
    learn_from_first_batches(run, plan.method.inherits(config.student.inherit))
    share_(module_state for module in (learner, policy) for module_state in module.state_dict().values())
    prepare_blocks(student, config, run.precision)
    if ema is not None:
        ema.restart()
    return run


def prepare_blocks(student: DualEncoder, config: Config, precision: torch.dtype) -> None:
    """Recomputed activations and compiled blocks, where the config asks for them."""
    if config.train.checkpoint_activations:
        recompute_activations(student)
    if config.train.compile == "on":
        compile_blocks(student, precision)


def ema_of(config: Config, plan: Plan, learner: Learner) -> Ema | None:
    """The average of the student's weights and of the task's head. Raises UsageError where the student is not the result."""
    if config.train.ema == 0:
        return None
    if plan.method.served is not None or plan.method.student == "frozen":
        raise UsageError(
            f"train.ema averages a student's weights, which are not the result of method '{config.method}'; drop it"
        )
    return Ema([module for module in (learner.student, learner.head) if module is not None], config.train.ema)


def build_student(config: Config, plan: Plan, opened: OpenedTeacher | None, tokenizer: Path) -> DualEncoder:
    """The student on its device, from its weights, at random, or from the teacher's weights."""
    captions = tokenizer_captions(plan.samples) if config.student.tokenizer.startswith("train:") else ()
    student = load_tower(config.student, captions, tokenizer, config.teacher, config.cache.words)
    student.to(plan.device).channels_last().requires_grad_(plan.method.student == "trained")
    freeze(student, config.student.frozen)
    if plan.method.inherits(config.student.inherit):
        start_from_teacher(config, student, plan.samples, opened.tower if opened else None)
    return student


def tokenizer_captions(samples: Samples) -> Iterable[str]:
    """The captions that a `train:N` tokenizer is trained on: all, or TOKENIZED evenly spread ones of more."""
    captions = samples.flat_captions()
    if len(captions) <= TOKENIZED:
        return captions
    say(f"student.tokenizer: trained on {TOKENIZED} of {len(captions)} captions, evenly spread")
    return captions.pick(np.linspace(0, len(captions) - 1, TOKENIZED).astype(np.int64))


def for_models(config: Config, plan: Plan, opened: OpenedTeacher | None, student: DualEncoder) -> Plan:
    """The plan without the terms and levels that the two models have nothing for; says which and why."""
    learns = Model(f"student {config.student.model}", student.shape, student.frozen)
    if opened is None or config.teacher is None:
        return replace(plan, method=available(plan.method, config.method, learns, learns)[0])
    teacher = Model(f"teacher {config.teacher.model}", opened.shape)
    method, off = available(plan.method, config.method, teacher, learns)
    for reason, names in by_reason(off).items():
        say(f"off: {names} ({reason})")
    if student.shape.sides != SIDES:
        tell_of_images_alone(method, plan.validation)
    levels = common_levels(teacher, learns)
    stages = tuple(
        structs.replace(stage, levels=tuple(name for name in stage.levels if name in levels)) for stage in plan.stages
    )
    return replace(plan, method=method, stages=stages, levels=levels)


def tell_of_images_alone(method: Method, validation: Validation) -> None:
    """Say what a student without a text tower does not read, learn and score."""
    say("data: captions are ignored, since the student has no text tower")
    if not set(method.weights) & FINAL:
        say("warning: no term is left that trains the final embedding; its map to the teacher's width stays random")
    if validation.samples:
        say(f"validation: share of the teacher's nearest neighbours among the images, {', '.join(neighbours.NAMES)}")


def class_texts_of(plan: Plan, opened: OpenedTeacher | None) -> ClassTexts | None:
    """The teacher's class texts, where a term reads them."""
    if opened is None or not reading("class_texts", plan.method.weights):
        return None
    texts = open_class_texts(plan.samples, opened.tower, opened.teacher)
    share_([texts.embeddings, texts.labels])
    return texts


def learner_of(
    config: Config, plan: Plan, student: DualEncoder, opened: OpenedTeacher | None, texts: ClassTexts | None
) -> Learner:
    """The learner on its device, with the class prompts' token ids where a term reads them."""
    shape, targets, tower = (opened.shape, opened.targets, opened.tower) if opened else (None, None, None)
    classes = 0 if texts is None else len(texts.embeddings)
    sizes = TermSizes(student.shape, shape, len(plan.samples), classes, tower, student)
    learner = build_learner(build_terms(plan.term_weights, sizes, config.options), student, shape, targets, plan.levels)
    if reading("class_prompts", plan.term_weights):
        learner.prompt_ids = prompt_ids(plan.samples, student)
    return learner.to(plan.device)


def prompt_ids(samples: Samples, student: DualEncoder) -> Tensor:
    """Token ids [C, L] of the class prompts. Raises UsageError for data without labels."""
    if samples.labels is None or samples.classes is None:
        raise UsageError(
            f"weights.task needs labelled data, but {samples.name} has captions only; give an image folder, or a task "
            "with data of its own (task.name, task.train), or drop it"
        )
    return student.tokenizer([CLASS_PROMPT.format(name) for name in samples.classes])[0]


def facts_of(plan: Plan, opened: OpenedTeacher | None, texts: ClassTexts | None) -> Facts:
    """τ and α of the bridge, the samples' labels, and the class texts, on the device, as far as terms read them.

    Data without classes have the labels of the pseudo-classes.
    """
    labels = None if texts is None else texts.labels
    if reading("class_prompts", plan.term_weights):
        labels = torch.tensor(list(plan.samples.labels or ()))
    pairs = None if opened is None else opened.targets.pairs
    on = plan.device
    return Facts(pairs, None if labels is None else labels.to(on), None if texts is None else texts.embeddings.to(on))


def add_head(learner: Learner, optimizer: torch.optim.AdamW, task: TaskLoss, config: Config) -> None:
    """The task's head in groups of its own; the loop keeps their rate at `factor` times the others'."""
    if task.module is None:
        return
    learner.head = task.module
    factor = (config.task.lr or config.train.lr) / config.train.lr
    for group in build_optimizer(task.module, config.train).param_groups:
        optimizer.add_param_group({**group, "factor": factor})


def loaders(
    config: Config, plan: Plan, student: DualEncoder, opened: OpenedTeacher | None
) -> tuple[Loader, Loader | None]:
    """(the training loader, the loader of held-out samples or None)."""
    mine, theirs = InputSpec(student.size, student.tokenizer), None
    inputs = reading("teacher_inputs", plan.method.weights)
    if opened is not None and opened.tower is not None and (inputs or opened.teacher.needs_inputs):
        theirs = InputSpec(opened.tower.size, opened.tower.tokenizer)
    stored = open_pixels(plan.samples, config.data, config.cache, student.size)
    loading = partial(open_loader, plan.samples, config.data, config.corrupt, mine, theirs)
    stripe = rank(), world()
    loader, held_out = loading(config.train.batch, config.seed, plan.pool, stored, stripe), None
    if most := len(plan.held) // world() * world():
        held_out = loading(min(config.train.batch, most), config.seed, plan.held, stored, stripe)
    return loader, held_out


def policy_of(config: Config, learner: Learner, opened: OpenedTeacher | None, held_out: Loader | None) -> Policy:
    """The policy on its device. Raises UsageError where it learns and there is nothing held out."""
    width = opened.shape.embedding if opened else learner.student.shape.embedding
    policy = POLICIES[config.policy.name](config.policy, width).to(learner.device)
    if policy.learns and held_out is None:
        raise UsageError(
            f"policy.name '{config.policy.name}' learns from held-out pairs, but data.holdout is 0; set data.holdout: 0.05"
        )
    return policy
