"""ViT-L/14 → ViT-B/16 on one GPU: `python -m benchmarks.on_gpu`. Milliseconds, peak memory and share of the GEMM rate of
a plain step, a cached CMAPKD step (store read, checked and copied to the GPU for every step, one step ahead by a thread,
as in training) and one with the teacher in the step; bf16, random weights, the same batch, a few steps of each in turn.
One JSON line a figure, on standard output.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.step import CONFIG, LARGE, cached_teacher, cmapkd_learner, random_batch
from cmapkd.config.schema import TowerConfig
from cmapkd.core.prefetch import ahead
from cmapkd.core.tree import move
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS, Batch, Inputs, Outputs, Teaching
from cmapkd.losses.contrastive import align
from cmapkd.pyramid.targets import Targets, rank_for
from cmapkd.teacher.live import LiveTeacher
from cmapkd.towers.load import load_tower
from cmapkd.train import step as stepping
from cmapkd.train.schedule import SCHEDULES, at

STUDENT, TEACHER, BATCH, ROUNDS, STEPS = "ViT-B-16", "ViT-L-14", 256, 5, 4
GFLOP = {
    "student": 123.8,
    "teacher": 162.03 + 13.30,
}  # a pair: forward and backward, forward (docs/tasks/efficiency.md)
DEVICE = torch.device("cuda")


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))


def measure(folder: Path) -> None:
    student = load_tower(TowerConfig(model=STUDENT))
    learner, objective = cmapkd_learner(student)
    learner.to(DEVICE)
    targets = random_targets()
    objective.pairs = targets.pairs
    teacher = load_tower(TowerConfig(model=TEACHER)).requires_grad_(False).eval().to(DEVICE)
    batch = both(random_batch(student, BATCH), random_batch(teacher, BATCH).student)
    stored = cached_teacher(folder, student.text.words, BATCH)
    stored.device = DEVICE
    live = LiveTeacher(teacher, targets, torch.bfloat16)
    optimizer = torch.optim.AdamW(learner.parameters(), fused=True)
    moment = at(SCHEDULES["all_on"], 0.0)

    def plain() -> None:
        moved = move(batch, DEVICE)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            final = student.final(moved.student)
        align(final.image.float(), final.text.float(), student.similarity.scale).backward()
        optimizer.step()

    def step(teaching: Teaching) -> None:
        moved = move(batch, DEVICE)

        def losses_of(outputs: Outputs) -> tuple[Tensor, dict[str, Tensor]]:
            losses = objective.losses(outputs, teaching, moved, moment)
            return objective.total(losses, moment), losses

        optimizer.zero_grad(set_to_none=True)
        stepping.whole(learner, moved, LEVELS, None, losses_of, torch.bfloat16)
        optimizer.step()

    def hear() -> Teaching:
        return live.teach(move(batch, DEVICE), LEVELS)

    def cached() -> None:
        for teaching in ahead(lambda _: stored.teach(batch, LEVELS), range(STEPS)):
            step(teaching)

    kinds: dict[str, Callable[[], object]] = {
        "plain": lambda: [plain() for _ in range(STEPS)],
        "cached": cached,
        "online": lambda: [step(hear()) for _ in range(STEPS)],
        "teacher": lambda: [hear() for _ in range(STEPS)],
    }
    ms, peak = interleaved(kinds)
    rate = gemm()
    card = torch.cuda.get_device_name()
    for name, values in ms.items():
        best = statistics.median(values)
        flops = {"teacher": GFLOP["teacher"], "online": sum(GFLOP.values())}.get(name, GFLOP["student"])
        share = flops * BATCH / best / rate
        print(json.dumps({"kind": name, "ms": round(best, 2), "samples_per_s": round(1e3 * BATCH / best),
                          "peak_mib": round(peak[name]), "share_of_gemm": round(share, 3), "gemm_tflops": round(rate, 1),
                          "batch": BATCH, "student": STUDENT, "teacher": TEACHER, "card": card, "torch": torch.__version__}))  # fmt: skip
    base = statistics.median(ms["cached"])
    for against in ("online", "plain"):
        print(json.dumps({"ratio": f"{against} / cached", "value": round(statistics.median(ms[against]) / base, 3)}))


def both(student: Batch, theirs: Inputs) -> Batch:
    return Batch(student.samples, student.captions, student.views, student.student, theirs)


def random_targets() -> Targets:
    tensors = {f"pairs/{k}": torch.full((4, 4), 0.1) for k in ("temperatures", "information", "recall", "alpha")}
    for name, width in zip(IMAGE_LEVELS + TEXT_LEVELS, LARGE.image_widths + LARGE.text_widths, strict=True):
        tensors[f"{name}/mean"] = torch.zeros(width)
        tensors[f"{name}/basis"] = torch.randn(width, rank_for(width, CONFIG.rank)) / width**0.5
        tensors[f"{name}/bridge"] = torch.randn(2 * width, LARGE.embedding) / width**0.5
        tensors[f"{name}/bias"] = torch.zeros(LARGE.embedding)
    return Targets(tensors, CONFIG.grid).to(DEVICE)


def interleaved(kinds: dict[str, Callable[[], object]]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """(milliseconds by events, peak MiB) of each kind, round by round after two warm-up rounds."""
    ms: dict[str, list[float]] = {name: [] for name in kinds}
    peak = dict.fromkeys(kinds, 0.0)
    for turn in range(ROUNDS + 2):
        for name, kind in kinds.items():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            kind()
            end.record()
            torch.cuda.synchronize()
            if turn >= 2:
                ms[name].append(start.elapsed_time(end) / STEPS)
                peak[name] = max(peak[name], torch.cuda.max_memory_allocated() / 2**20)
    return ms, peak


def gemm(side: int = 8192) -> float:
    """TFLOP/s of a bf16 product of random side × side matrices."""
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    ms, _ = interleaved({"gemm": lambda: [a @ b for _ in range(STEPS)]})
    return 2 * side**3 / statistics.median(ms["gemm"]) / 1e9


if __name__ == "__main__":
    main()
