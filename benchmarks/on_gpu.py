"""ViT-L/14 → ViT-B/16 on one GPU: `python -m benchmarks.on_gpu`, one JSON line per measurement on standard output.

Milliseconds, peak memory and fraction of the GEMM rate of a plain step, a cached CMAPKD step (the store is read, verified
and copied to the GPU for every step, one step ahead in a thread, as in training) and a step with the teacher in it; bf16,
random weights, the same batch, a few steps of each in turn.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.step import CONFIG, LARGE, cached_teacher, cmapkd_learner, random_batch
from cmapkd.config.schedules import SCHEDULES
from cmapkd.config.schema import TowerConfig
from cmapkd.core.prefetch import prefetch
from cmapkd.core.tree import move
from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Batch, Inputs, TeacherOutputs
from cmapkd.losses.contrastive import align
from cmapkd.methods.objective import Facts
from cmapkd.pyramid.targets import Targets, rank_for
from cmapkd.teacher.live import LiveTeacher
from cmapkd.towers.load import load_tower
from cmapkd.train.schedule import stage_at
from cmapkd.train.step import StepInputs, backward

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
    ms, peak = gpu_interleaved(step_kinds(folder))
    rate = gemm()
    card = torch.cuda.get_device_name()
    for name, values in ms.items():
        median = statistics.median(values)
        flops = {"teacher": GFLOP["teacher"], "online": sum(GFLOP.values())}.get(name, GFLOP["student"])
        fraction = flops * BATCH / median / rate
        print(json.dumps({"kind": name, "ms": round(median, 2), "samples_per_s": round(1e3 * BATCH / median),
                          "peak_mib": round(peak[name]), "share_of_gemm": round(fraction, 3), "gemm_tflops": round(rate, 1),
                          "batch": BATCH, "student": STUDENT, "teacher": TEACHER, "card": card, "torch": torch.__version__}))  # fmt: skip
    base = statistics.median(ms["cached"])
    for against in ("online", "plain"):
        print(json.dumps({"ratio": f"{against} / cached", "value": round(statistics.median(ms[against]) / base, 3)}))


def step_kinds(folder: Path) -> dict[str, Callable[[], object]]:
    """STEPS steps of each kind: plain, cached, with the teacher in the step, and the teacher alone."""
    student = load_tower(TowerConfig(model=STUDENT))
    learner, objective = cmapkd_learner(student)
    learner.to(DEVICE)
    targets = random_targets()
    objective.facts = Facts(targets.pairs)
    teacher = load_tower(TowerConfig(model=TEACHER)).requires_grad_(False).eval().to(DEVICE)
    batch = both(random_batch(student, BATCH), random_batch(teacher, BATCH).student)
    stored = cached_teacher(folder, student.text.words, BATCH)
    stored.device = DEVICE
    live = LiveTeacher(teacher, targets, torch.bfloat16)
    optimizer = torch.optim.AdamW(learner.parameters(), fused=True)
    stage = stage_at(SCHEDULES["all_on"], 0.0)
    needs = objective.needs(stage)

    def plain() -> None:
        moved = move(batch, DEVICE)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            final = student.final(moved.student)
        align(final.image.float(), final.text.float(), student.similarity.scale).backward()
        optimizer.step()

    def distil(teacher_outputs: TeacherOutputs) -> None:
        given = StepInputs(move(batch, DEVICE), teacher_outputs, stage, needs)
        optimizer.zero_grad(set_to_none=True)
        backward(objective, learner, given, torch.bfloat16)
        optimizer.step()

    def online() -> TeacherOutputs:
        return live.outputs(move(batch, DEVICE), needs)

    def cached() -> None:
        for outputs in prefetch(lambda _: stored.outputs(batch, needs), range(STEPS)):
            distil(outputs)

    return {
        "plain": lambda: [plain() for _ in range(STEPS)],
        "cached": cached,
        "online": lambda: [distil(online()) for _ in range(STEPS)],
        "teacher": lambda: [online() for _ in range(STEPS)],
    }


def both(student: Batch, theirs: Inputs) -> Batch:
    """The student's batch with the teacher's inputs."""
    return Batch(student.samples, student.captions, student.views, student.student, theirs)


def random_targets() -> Targets:
    """A random calibration of the teacher's levels and bridge."""
    tensors = {f"pairs/{k}": torch.full((4, 4), 0.1) for k in ("temperatures", "information", "recall", "alpha")}
    for name, width in zip(IMAGE_LEVELS + TEXT_LEVELS, LARGE.image_widths + LARGE.text_widths, strict=True):
        tensors[f"{name}/mean"] = torch.zeros(width)
        tensors[f"{name}/basis"] = torch.randn(width, rank_for(width, CONFIG.rank)) / width**0.5
        tensors[f"{name}/bridge"] = torch.randn(2 * width, LARGE.embedding) / width**0.5
        tensors[f"{name}/bias"] = torch.zeros(LARGE.embedding)
    return Targets(tensors, CONFIG.grid).to(DEVICE)


def gpu_interleaved(kinds: dict[str, Callable[[], object]]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """(milliseconds by CUDA events, peak MiB) of each kind, in turns, after two warm-up rounds."""
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
    ms, _ = gpu_interleaved({"gemm": lambda: [a @ b for _ in range(STEPS)]})
    return 2 * side**3 / statistics.median(ms["gemm"]) / 1e9


if __name__ == "__main__":
    main()
