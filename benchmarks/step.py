"""Ratios a, b1, b2 and c1: the cached CMAPKD step against a plain step, an online teacher, teacher outputs in RAM, and
open_clip's distillation; open_clip towers with random weights, bf16, one thread, CPU seconds, A/B/A/B.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders import interleaved, ratio_row
from cmapkd.config.schedules import SCHEDULES
from cmapkd.config.schema import CacheConfig, TowerConfig
from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Batch, Inputs, LogitScale, TeacherOutputs
from cmapkd.losses import logits
from cmapkd.methods import METHODS
from cmapkd.methods.objective import Facts, Objective
from cmapkd.methods.term import TermSizes
from cmapkd.pyramid import grid
from cmapkd.pyramid.levels import Shape
from cmapkd.pyramid.targets import Targets, rank_for
from cmapkd.store.store import Store, StoreWriter
from cmapkd.teacher.cached import CachedTeacher
from cmapkd.teacher.layout import fields
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower
from cmapkd.train import step as stepping
from cmapkd.train.learner import Learner, build_learner, build_terms
from cmapkd.train.schedule import stage_at
from cmapkd.train.step import StepInputs

STUDENT, TEACHER = "ViT-B-32", "ViT-L-14"
LARGE = Shape(
    (1024, 1024, 1024, 1024), (16, 16, 16, 8), (768, 768, 768, 768), 768
)  # ViT-L/14's levels, without building it
ROWS, BATCH = 32, 8
CONFIG = CacheConfig(grid=4)
# COCO's captions have 14 tokens on average; the longest of 256 has 28, and a batch is computed as far as its longest.
CAPTION = "a photo of two dogs that run after a red ball on the beach"
LONGEST = "two dogs, one brown and one white, run after a red ball on the beach while a man in a blue coat looks on"


def run(quick: bool = True) -> list[dict[str, Any]]:
    """All rows; quick has two rounds of the online teacher instead of four."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    agree_with_references()
    with tempfile.TemporaryDirectory() as folder:
        return _rows(Path(folder), 3 if quick else 5)


def _rows(folder: Path, rounds: int) -> list[dict[str, Any]]:
    world = World(folder)
    world.check()
    fast = timed(rounds + 2, {"plain": world.plain, "store": world.cached, "ram": world.in_ram})
    world.wake_teacher()
    slow = timed(rounds - 1, {"store": world.cached, "online": world.online, "open_clip": world.open_clip})
    a, b = ({name: min(values) for name, values in seconds.items()} for seconds in (fast, slow))
    return [
        _row(
            "a",
            "full pyramid step (cached, read, verified) / plain CLIP step",
            a["store"] / a["plain"],
            1.05,
            "<=",
            fast,
        ),
        _row("b1", "online-teacher step / cached step", b["online"] / b["store"], 5.0, ">=", slow),
        _row("b2", "step with the store / with features in RAM", a["store"] / a["ram"], 1.02, "<=", fast),
        _row(
            "c1",
            "our cached step / open_clip's online distillation step",
            b["store"] / b["open_clip"],
            0.20,
            "<=",
            slow,
        ),
    ]


class World:
    """Student, store, learner and, once loaded, the teacher; each method is one forward and backward pass."""

    def __init__(self, folder: Path, distils: bool = True) -> None:
        self.student = load_tower(TowerConfig(model=STUDENT))
        self.batch, self.stage = random_batch(self.student), stage_at(SCHEDULES["all_on"], 0.0)
        if not distils:
            return
        self.store = cached_teacher(folder, self.student.text.words)
        self.learner, self.objective = cmapkd_learner(self.student)
        self.needs = self.objective.needs(self.stage)
        self.held = self.store.outputs(self.batch, self.needs)

    def wake_teacher(self) -> None:
        self.teacher = load_tower(TowerConfig(model=TEACHER)).requires_grad_(False).eval().bfloat16()
        self.theirs = random_batch(self.teacher).student

    def check(self) -> None:
        """Raise where the losses of teacher outputs from the store and from RAM differ in any bit."""
        a, b = (self._losses(teacher) for teacher in (self.held, self.store.outputs(self.batch, self.needs)))
        for name in a:
            if not torch.equal(a[name], b[name]):
                raise AssertionError(
                    f"loss {name} differs between RAM and the store: {float(a[name])} and {float(b[name])}"
                )

    def plain(self) -> None:
        """A plain CLIP step as in open_clip: two encoders, one contrastive loss."""
        image, text = self._encode()
        scores = self.student.similarity.scale * image @ text.T
        target = torch.arange(BATCH)
        (0.5 * (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target))).backward()

    def cached(self) -> None:
        self._distil(self.store.outputs(self.batch, self.needs))

    def in_ram(self) -> None:
        self._distil(self.held)

    def online(self) -> None:
        """The teacher runs in the step; its projected levels come from RAM."""
        with torch.no_grad():
            self.teacher(self.theirs)
        self._distil(self.held)

    def open_clip(self) -> None:
        """open_clip's DistillClipLoss, which always runs the teacher in the step."""
        import open_clip

        image, text = self._encode()
        with torch.no_grad():
            pixels = self.teacher.normalise(self.theirs.images)
            their_image = self.teacher.native.encode_image(pixels, normalize=True).float()
            their_text = self.teacher.native.encode_text(self.theirs.ids, normalize=True).float()
        scale = self.student.similarity.scale
        losses = open_clip.loss.DistillClipLoss()(image, text, scale, their_image, their_text, torch.tensor(100.0))
        (losses[0] + losses[1]).backward()

    def _encode(self) -> tuple[Tensor, Tensor]:
        self.student.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            image = self.student.native.encode_image(self.student.normalise(self.batch.student.images), normalize=True)
            text = self.student.native.encode_text(self.batch.student.ids, normalize=True)
        return image.float(), text.float()

    def _losses(self, teacher: TeacherOutputs) -> dict[str, Tensor]:
        given = StepInputs(self.batch, teacher, self.stage, self.needs)
        outputs = stepping.forward(self.learner, self.batch.student, teacher, self.needs, None, torch.float32)
        return stepping.losses_of(self.objective, self.learner, outputs, given)[1]

    def _distil(self, teacher: TeacherOutputs) -> None:
        self.learner.zero_grad(set_to_none=True)
        given = StepInputs(self.batch, teacher, self.stage, self.needs)
        stepping.backward(self.objective, self.learner, given, torch.bfloat16)


def _row(
    key: str, name: str, ratio: float, target: float, better: str, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    shown = ", ".join(f"{k} {1e3 * min(v) / BATCH:.0f}" for k, v in seconds.items())
    rounds = len(next(iter(seconds.values())))
    detail = f"CPU ms/sample, min of {rounds}: {shown}; {STUDENT} from {TEACHER}, batch {BATCH}"
    return ratio_row(key, name, ratio, target, better, detail)


def timed(rounds: int, contenders: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """CPU seconds of each contender in each round, after one warm-up each."""
    for contender in contenders.values():
        contender()
    return interleaved(rounds, contenders)


def cached_teacher(folder: Path, words: int, rows: int = ROWS, shape: Shape = LARGE) -> CachedTeacher:
    """A teacher on a store of random records in the layout of `shape`, written and read like a real cache."""
    rng = np.random.default_rng(0)
    for name, layout in zip(("image", "text"), fields(shape, words, CONFIG), strict=True):
        writer = StoreWriter(folder / name, layout, rows, rows, {"random": "yes"})
        arrays = {
            k: np.ones((rows, *f.shape)) if f.dtype == "uint8" else rng.standard_normal((rows, *f.shape))
            for k, f in layout.items()
        }
        writer.write_shard(range(rows), arrays)
        writer.finish()
    return CachedTeacher(Store(folder / "image"), Store(folder / "text"), 1, LogitScale(100.0))


def cmapkd_learner(student: DualEncoder, shape: Shape = LARGE) -> tuple[Learner, Objective]:
    tensors: dict[str, Tensor] = {f"pairs/{k}": torch.full((4, 4), v) for k, v in
                                  (("temperatures", 0.05), ("information", 1.0), ("recall", 0.5), ("alpha", 1 / 16))}  # fmt: skip
    for name, width in zip(IMAGE_LEVELS + TEXT_LEVELS, shape.image_widths + shape.text_widths, strict=True):
        tensors[f"{name}/mean"], tensors[f"{name}/basis"] = (
            torch.zeros(width),
            torch.zeros(width, rank_for(width, CONFIG.rank)),
        )
    targets = Targets(tensors, CONFIG.grid)
    method = METHODS["cmapkd"]
    terms = build_terms(method.weights, TermSizes(student.shape, shape))
    learner = build_learner(terms, student, shape, targets).train()
    return learner, Objective(method, learner.terms_by_name, dict(method.weights), Facts(targets.pairs))


def random_batch(tower: DualEncoder, size: int = BATCH) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids, words = tower.tokenizer([LONGEST] + [CAPTION] * (size - 1))
    pixels = torch.randint(0, 256, (size, 3, tower.size, tower.size), generator=generator, dtype=torch.uint8)
    rows = torch.arange(size)
    return Batch(rows, rows, torch.zeros_like(rows), Inputs(pixels, ids, words))


def agree_with_references() -> None:
    """Raise where a fast path differs from its reference in value or gradient."""
    import open_clip

    student, teacher = (
        torch.randn(4, 196, 32, dtype=torch.float64, requires_grad=True),
        torch.randn(4, 256, 32, dtype=torch.float64),
    )
    fast = torch.autograd.grad(grid.grid_error(14, 16, 56)(student, teacher).sum(), student)[0]
    naive = torch.autograd.grad(grid.naive_grid_error(student, teacher, 56).sum(), student)[0]
    if not torch.allclose(fast, naive, rtol=1e-4, atol=1e-9):
        raise AssertionError("the gradient of the factored 56×56 error differs from the upsampled map's")
    a, b = (F.normalize(torch.randn(16, 32), dim=-1).requires_grad_() for _ in range(2))
    c, d = (F.normalize(torch.randn(16, 48), dim=-1) for _ in range(2))
    ours = torch.autograd.grad(logits.logits(a, b, c, d, 20.0, 100.0), (a, b))
    loss = open_clip.loss.DistillClipLoss()(a, b, torch.tensor(20.0), c, d, torch.tensor(100.0))[1]
    for x, y in zip(ours, torch.autograd.grad(loss, (a, b)), strict=True):
        # Ours differentiates through the normalisation too, which removes the component along each row.
        if not torch.allclose(x, _tangent(x, y, a if x is ours[0] else b), rtol=1e-3, atol=1e-5):
            raise AssertionError("the gradient of the logit loss differs from open_clip's DistillClipLoss")


def _tangent(_: Tensor, gradient: Tensor, unit: Tensor) -> Tensor:
    return gradient - (gradient * unit).sum(-1, keepdim=True) * unit.detach()
