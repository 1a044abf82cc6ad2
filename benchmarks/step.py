"""Ratios a, b1, b2, c1 and g: the cached CMAPKD step against a plain step, an online teacher, features in RAM, and
open_clip's own distillation; random-weight open_clip towers, bf16, one thread, CPU seconds, A/B/A/B.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.cache.build import fields
from cmapkd.cache.store import Store, StoreWriter
from cmapkd.cache.teacher import CachedTeacher
from cmapkd.config.schema import CacheConfig, TowerConfig
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS, Batch, Inputs, Teaching
from cmapkd.losses import feature, logits
from cmapkd.methods import METHODS
from cmapkd.models.load import load_tower
from cmapkd.models.targets import Targets, rank_for
from cmapkd.models.tower import Shape, Tower
from cmapkd.train import step as stepping
from cmapkd.train.learner import Learner, build_learner
from cmapkd.train.objective import Objective
from cmapkd.train.schedule import SCHEDULES, at

STUDENT, TEACHER = "ViT-B-32", "ViT-L-14"
LARGE = Shape((1024,) * 4, (16, 16, 16, 8), (768,) * 4, 768)  # ViT-L/14's levels, without building it
ROWS, BATCH = 32, 8
CONFIG = CacheConfig(grid=4)


def run(quick: bool = True) -> list[dict[str, Any]]:
    """All rows. Quick skips the online teacher's rounds to two and the memory rows' repeats."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    agree_with_references()
    with tempfile.TemporaryDirectory() as folder:
        return _rows(Path(folder), 3 if quick else 5) + memory_rows()


def _rows(folder: Path, rounds: int) -> list[dict[str, Any]]:
    student = load_tower(TowerConfig(model=STUDENT))
    store = cached_teacher(folder, student)
    learner, objective = cmapkd_learner(student)
    batch, moment = random_batch(student), at(SCHEDULES["all_on"], 0.0)
    ram = store.teach(batch, LEVELS)
    same(objective, learner, batch, ram, store.teach(batch, LEVELS), moment)

    def cached(teaching: Callable[[], Teaching]) -> Callable[[], None]:
        def step() -> None:
            learner.zero_grad(set_to_none=True)
            taught = teaching()

            def losses_of(outputs):
                losses = objective.losses(outputs, taught, batch, moment)
                return objective.total(losses, moment), losses

            stepping.whole(learner, batch, LEVELS, None, losses_of, torch.bfloat16)

        return step

    contenders = {
        "plain": lambda: plain_step(student, batch),
        "store": cached(lambda: store.teach(batch, LEVELS)),
        "ram": cached(lambda: ram),
    }
    seconds = interleaved(rounds + 2, contenders)
    teacher = load_tower(TowerConfig(model=TEACHER)).requires_grad_(False).eval()
    theirs = random_batch(teacher).student
    online = {"store": contenders["store"], "online": cached(lambda: online_teaching(teacher, theirs, ram)),
              "open_clip": lambda: open_clip_distill_step(student, teacher, batch, theirs)}  # fmt: skip
    slow = interleaved(max(2, rounds - 1), online)
    best = {name: min(values) for name, values in seconds.items()}
    return [
        row(
            "a",
            "full pyramid step (cached, read and verified) / plain CLIP step",
            best["store"] / best["plain"],
            1.05,
            "<=",
            seconds,
        ),
        row("b1", "online-teacher step / cached step", min(slow["online"]) / min(slow["store"]), 5.0, ">=", slow),
        row("b2", "step with the store / step with features in RAM", best["store"] / best["ram"], 1.02, "<=", seconds),
        row(
            "c1",
            "our cached step / open_clip's distillation step (online)",
            min(slow["store"]) / min(slow["open_clip"]),
            0.20,
            "<=",
            slow,
        ),
    ]


def row(
    key: str, name: str, ratio: float, target: float, better: str, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    shown = ", ".join(f"{k} {1e3 * min(v) / BATCH:.0f}" for k, v in seconds.items())
    return {"id": key, "name": name, "ratio": ratio, "target": target, "better": better,
            "detail": f"CPU ms/sample, min of {len(next(iter(seconds.values())))}: {shown}; {STUDENT} from {TEACHER}, batch {BATCH}"}  # fmt: skip


def interleaved(rounds: int, contenders: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """CPU seconds of each contender, round by round, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    for _ in range(rounds):
        for name, contender in contenders.items():
            start = time.process_time()
            contender()
            seconds[name].append(time.process_time() - start)
    return seconds


def cached_teacher(folder: Path, student: Tower) -> CachedTeacher:
    """A store of random records in ViT-L/14's layout, written and read as real ones are."""
    proxy = type("Proxy", (), {"shape": LARGE, "words": student.words})()
    rng = np.random.default_rng(0)
    for name, layout in zip(("image", "text"), fields(proxy, CONFIG), strict=True):
        writer = StoreWriter(folder / name, layout, ROWS, ROWS, {"random": "yes"})
        arrays = {
            k: np.ones((ROWS, *f.shape)) if f.dtype == "uint8" else rng.standard_normal((ROWS, *f.shape))
            for k, f in layout.items()
        }
        writer.write_shard(range(ROWS), arrays)
        writer.finish()
    return CachedTeacher(Store(folder / "image"), Store(folder / "text"), 1, 100.0)


def cmapkd_learner(student: Tower) -> tuple[Learner, Objective]:
    tensors: dict[str, Tensor] = {f"pairs/{k}": torch.full((4, 4), v) for k, v in
                                  (("temperatures", 0.05), ("information", 1.0), ("recall", 0.5), ("alpha", 1 / 16))}  # fmt: skip
    for name, width in zip(IMAGE_LEVELS + TEXT_LEVELS, LARGE.image_widths + LARGE.text_widths, strict=True):
        tensors[f"{name}/mean"], tensors[f"{name}/basis"] = (
            torch.zeros(width),
            torch.zeros(width, rank_for(width, CONFIG.rank)),
        )
    targets = Targets(tensors, CONFIG.grid)
    learner = build_learner(student, LARGE, targets, bridge=True, levels=True).train()
    method = METHODS["cmapkd"]
    return learner, Objective(learner, method, dict(method.weights), targets.pairs)


def random_batch(tower: Tower) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids, words = tower.tokenizer(["a photo of two dogs that run after a red ball on the beach"] * BATCH)
    pixels = torch.randint(0, 256, (BATCH, 3, tower.size, tower.size), generator=generator, dtype=torch.uint8)
    rows = torch.arange(BATCH)
    return Batch(rows, rows, torch.zeros_like(rows), Inputs(pixels, ids, words))


def plain_step(student: Tower, batch: Batch) -> None:
    """What open_clip does without a teacher: two encoders, one contrastive loss, backward."""
    student.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        image = student.clip.encode_image(student.normalise(batch.student.images), normalize=True)
        text = student.clip.encode_text(batch.student.ids, normalize=True)
    scores = student.clip.logit_scale.exp() * image.float() @ text.float().T
    target = torch.arange(BATCH)
    (0.5 * (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target))).backward()


@torch.no_grad()
def online_teaching(teacher: Tower, inputs: Inputs, ram: Teaching) -> Teaching:
    """Run the teacher as a live one is run; the levels it would be projected to stand in `ram`."""
    with torch.autocast("cpu", torch.bfloat16):
        teacher(inputs)
    return ram


def open_clip_distill_step(student: Tower, teacher: Tower, batch: Batch, inputs: Inputs) -> None:
    """open_clip's DistillClipLoss with the teacher run in the step, its only mode."""
    import open_clip

    student.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        image = student.clip.encode_image(student.normalise(batch.student.images), normalize=True)
        text = student.clip.encode_text(batch.student.ids, normalize=True)
        with torch.no_grad():
            their_image = teacher.clip.encode_image(teacher.normalise(inputs.images), normalize=True)
            their_text = teacher.clip.encode_text(inputs.ids, normalize=True)
    loss = open_clip.loss.DistillClipLoss()
    scale = student.clip.logit_scale.exp()
    sum(
        loss(image.float(), text.float(), scale, their_image.float(), their_text.float(), torch.tensor(100.0))
    ).backward()


def same(objective: Objective, learner: Learner, batch: Batch, a: Teaching, b: Teaching, moment: Any) -> None:
    """The losses of stored and of held features must agree to the bit."""
    outputs = stepping.forward(learner, batch.student, LEVELS, None, torch.float32)
    x, y = (objective.losses(outputs, t, batch, moment) for t in (a, b))
    for name in x:
        if not torch.equal(x[name], y[name]):
            raise AssertionError(
                f"loss {name} differs between the store and RAM: {float(x[name])} and {float(y[name])}"
            )


def agree_with_references() -> None:
    """Fast paths against their references in value and gradient; raises where they differ."""
    import open_clip

    student, teacher = (
        torch.randn(4, 196, 32, dtype=torch.float64, requires_grad=True),
        torch.randn(4, 256, 32, dtype=torch.float64),
    )
    fast = torch.autograd.grad(feature.grid_error(14, 16, 56)(student, teacher).sum(), student)[0]
    naive = torch.autograd.grad(feature.naive_grid_error(student, teacher, 56).sum(), student)[0]
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


def memory_rows() -> list[dict[str, Any]]:
    """g: peak resident memory of two steps, each kind in a process of its own."""
    peak = {kind: _peak(kind) for kind in ("plain", "cached", "online")}
    shown = ", ".join(f"{k} {v:.0f} MB" for k, v in peak.items())
    return [
        {
            "id": "g",
            "name": "peak memory, cached / plain",
            "ratio": peak["cached"] / peak["plain"],
            "target": 1.03,
            "better": "<=",
            "detail": shown,
        },
        {
            "id": "g",
            "name": "peak memory, cached / online",
            "ratio": peak["cached"] / peak["online"],
            "target": 0.65,
            "better": "<=",
            "detail": shown,
        },
    ]


def _peak(kind: str) -> float:
    out = subprocess.run([sys.executable, "-m", "benchmarks.step", kind], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def _one_kind(kind: str) -> None:
    """Two steps of one kind with an optimizer, then this process's peak memory in MB."""
    torch.set_num_threads(1)
    student = load_tower(TowerConfig(model=STUDENT))
    batch = random_batch(student)
    with tempfile.TemporaryDirectory() as folder:
        if kind == "plain":
            optimizer = torch.optim.AdamW(student.parameters())
            step: Callable[[], None] = lambda: plain_step(student, batch)  # noqa: E731
        else:
            learner, objective = cmapkd_learner(student)
            optimizer, moment = torch.optim.AdamW(learner.parameters()), at(SCHEDULES["all_on"], 0.0)
            store = cached_teacher(Path(folder), student)
            teacher = load_tower(TowerConfig(model=TEACHER)).requires_grad_(False).eval() if kind == "online" else None
            theirs = random_batch(teacher).student if teacher else None

            def step() -> None:
                taught = store.teach(batch, LEVELS)
                if teacher is not None and theirs is not None:
                    taught = online_teaching(teacher, theirs, taught)

                def losses_of(outputs):
                    losses = objective.losses(outputs, taught, batch, moment)
                    return objective.total(losses, moment), losses

                stepping.whole(learner, batch, LEVELS, None, losses_of, torch.bfloat16)

        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            step()
            optimizer.step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    _one_kind(sys.argv[1])
