"""A toy world for tests: tiny towers, a few captions, random pixels; no network, no files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from cmapkd.core.types import Batch, Inputs, LogitScale, StudentOutputs, TeacherOutputs
from cmapkd.methods import TERMS
from cmapkd.methods.method import Method
from cmapkd.methods.objective import Facts, Objective
from cmapkd.methods.stage import ActiveStage
from cmapkd.methods.term import Term, TermSizes
from cmapkd.methods.view import View
from cmapkd.pyramid.levels import Shape
from cmapkd.pyramid.targets import Targets
from cmapkd.teacher.calibrate import calibrate
from cmapkd.towers.adapt import adapt
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.train import step as stepping
from cmapkd.train.learner import Learner, build_learner, build_terms
from cmapkd.train.step import StepInputs

CAPTIONS = [f"{a} {c} {s} {r} the {d}" for a in ("a", "two") for c in ("red", "blue", "green") for s in ("star", "ring")
            for r in ("above", "beside") for d in ("tree", "small house")]  # fmt: skip
MEAN = STD = (0.5, 0.5, 0.5)


def tokenizer(folder: Path, context: int = 16) -> tok.Tokenizer:
    return tok.train(CAPTIONS, 128, context, folder)


def config(
    vocabulary: int, width: int = 32, layers: int = 4, embedding: int = 24, size: int = 32, context: int = 16
) -> dict:
    return {
        "embed_dim": embedding,
        "vision_cfg": {"image_size": size, "layers": layers, "width": width, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": context, "vocab_size": vocabulary, "width": width, "heads": 2, "layers": layers},
    }


def tower(folder: Path, seed: int = 0, **shape: int) -> DualEncoder:
    words = tokenizer(folder)
    cfg = config(tok.vocabulary(folder), **shape)
    torch.manual_seed(seed)
    return adapt(build(cfg), words, cfg["vision_cfg"]["image_size"], MEAN, STD, cfg, "toy", words=8)


def inputs(model: DualEncoder, n: int, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    ids, words = model.tokenizer([CAPTIONS[(seed + k) % len(CAPTIONS)] for k in range(n)])
    pixels = torch.randint(0, 256, (n, 3, model.size, model.size), generator=generator, dtype=torch.uint8)
    return Inputs(pixels, ids, words)


def batch(student: DualEncoder, teacher: DualEncoder, n: int = 8, seed: int = 0) -> Batch:
    mine, theirs = inputs(student, n, seed), inputs(teacher, n, seed)
    rows = torch.arange(n)
    return Batch(rows, rows, torch.zeros_like(rows), mine, theirs)


def targets(teacher: DualEncoder, rank: int = 16, grid: int | None = None) -> Targets:
    return calibrate(teacher, [inputs(teacher, 32, seed) for seed in range(4)], rank, grid)


def term(name: str, student: int = 4, teacher: int = 4, samples: int = 8, classes: int = 3, **options) -> Term:
    """A term of the registry, for embeddings of two widths, with switches."""
    shapes = (Shape((4,) * 4, (2, 2, 2, 1), (4,) * 4, width) for width in (student, teacher))
    return TERMS[name](TermSizes(*shapes, samples, classes), options)


def view(
    outputs: StudentOutputs,
    similarity: LogitScale | torch.Tensor,
    positives: torch.Tensor,
    teacher: TeacherOutputs | None = None,
    **rest,
) -> View:
    """A View of a batch whose samples are numbered; `rest` as View takes it. similarity: a tensor is a softmax student's scale."""
    samples = rest.pop("samples", torch.arange(len(positives)))
    names = {"labels", "class_prompts", "class_texts", "inputs", "coupling", "temperatures"}
    similarity = similarity if isinstance(similarity, LogitScale) else LogitScale(similarity)
    rest = {f"{k}_or_none" if k in names else k: v for k, v in rest.items()}
    return View(outputs, similarity, positives, samples, teacher_or_none=teacher, **rest)


def learner(
    weights,
    student: DualEncoder,
    teacher: DualEncoder | None = None,
    targets: Targets | None = None,
    samples=16,
    classes=5,
) -> Learner:
    """The learner of the terms in `weights`, with what they need of a teacher."""
    weights = weights if isinstance(weights, Mapping) else dict.fromkeys(weights, 1.0)
    shape = None if teacher is None else teacher.shape
    sizes = TermSizes(student.shape, shape, samples, classes, teacher, student)
    return build_learner(build_terms(weights, sizes), student, shape, targets)


def objective(learner: Learner, method: Method, pairs=None, labels=None, class_texts=None) -> Objective:
    """The objective of a learner's terms with the method's weights."""
    return Objective(method, learner.terms_by_name, dict(method.weights), Facts(pairs, labels, class_texts))


def given(objective: Objective, batch: Batch, stage: ActiveStage, teacher=None, **rest) -> StepInputs:
    """The inputs of a step: what `teacher` gives for what the objective needs."""
    needs = objective.needs(stage)
    outputs = teacher.outputs(batch, needs) if teacher is not None and needs.teacher else None
    return StepInputs(batch, outputs, stage, needs, **rest)


def losses(objective: Objective, learner: Learner, inputs: StepInputs) -> dict[str, torch.Tensor]:
    """Raw losses of a step's inputs, with their graph."""
    weights, needs = inputs.weights, inputs.needs
    outputs = stepping.forward(learner, inputs.batch.student, inputs.teacher, needs, weights, torch.float32)
    return stepping.losses_of(objective, learner, outputs, inputs)[1]
