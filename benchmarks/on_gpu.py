"""ViT-L/14 → ViT-B/16 on one GPU: `python -m benchmarks.on_gpu`, one JSON line per measurement; `--toy` runs it small on a CPU.

A plain step, a cached CMAPKD step (rows read, verified and copied one step ahead, as in training), a step with the teacher
in it and the teacher alone, each with and without compiled blocks; then the cached step end to end from JPEG files through the
Loader, with the share of the time that it waits for data. bf16, random weights; milliseconds, peak memory, share of the
GEMM rate; every line has the command and what repeats it. Parts that no longer fit into `--seconds` are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.pictures import write_pictures
from benchmarks.step import CONFIG, cached_teacher, cmapkd_learner, random_batch
from cmapkd.config.schedules import SCHEDULES
from cmapkd.config.schema import DataConfig, TowerConfig
from cmapkd.core.prefetch import prefetch
from cmapkd.core.tree import move
from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Batch, TeacherOutputs
from cmapkd.core.upload import await_upload, uploaded
from cmapkd.data.loader import InputSpec, Loader
from cmapkd.data.readers import open_samples
from cmapkd.losses.contrastive import align
from cmapkd.methods.objective import Facts, Objective
from cmapkd.pyramid.levels import Shape
from cmapkd.pyramid.targets import Targets, rank_for
from cmapkd.teacher.live import LiveTeacher
from cmapkd.towers.load import load_tower
from cmapkd.train.batches import trimmed
from cmapkd.train.blocks import compile_blocks
from cmapkd.train.schedule import stage_at
from cmapkd.train.step import StepInputs, backward

# GFLOP of a pair: forward and backward of ViT-B/16, forward of ViT-L/14 (docs/tasks/efficiency.md)
GFLOP = {"student": 123.8, "teacher": 162.03 + 13.30}
GOALS = {
    "plain": "share_of_gemm >= 0.40", "teacher": "share_of_gemm >= 0.50", "cached / plain": "<= 1.10",
    "online / cached": ">= 2.2", "end to end / cached": "<= 1.05",
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Sizes of a measurement: models, pairs a step, rounds of so many steps, JPEG files, their side in pixels, side of the GEMM."""

    student: str
    teacher: str
    batch: int
    rounds: int
    steps: int
    files: int
    picture: tuple[int, int]
    gemm: int


WHOLE = Size("ViT-B-16", "ViT-L-14", 256, 5, 4, 2048, (500, 375), 8192)
TOY = Size("cmapkd-small-64", "cmapkd-small-64", 4, 1, 1, 12, (80, 60), 64)


class Bench:
    """Student, learner, live and stored teacher on one device, and the steps that are measured."""

    def __init__(self, size: Size, device: torch.device, folder: Path) -> None:
        self.size, self.device = size, device
        self.student = load_tower(TowerConfig(model=size.student))
        self.teacher = load_tower(TowerConfig(model=size.teacher)).requires_grad_(False).eval().to(device)
        shape = self.teacher.shape
        self.targets = random_targets(shape).to(device)
        learner, objective = cmapkd_learner(self.student, shape)
        self.learner, self.objective = learner.to(device), objective_on(objective, self.targets)
        self.stored = cached_teacher(folder / "store", self.student.text.words, max(size.batch, size.files), shape)
        self.stored.device = device
        self.live = LiveTeacher(self.teacher, self.targets, torch.bfloat16)
        mine, theirs = random_batch(self.student, size.batch), random_batch(self.teacher, size.batch).student
        mine_trimmed, theirs_trimmed = trimmed(self.student, mine.student), trimmed(self.teacher, theirs)
        self.host = Batch(mine.samples, mine.captions, mine.views, mine_trimmed, theirs_trimmed)
        self.optimizer = torch.optim.AdamW(self.learner.parameters(), fused=True)
        self.stage = stage_at(SCHEDULES["all_on"], 0.0)
        self.needs = self.objective.needs(self.stage)

    def plain(self) -> None:
        for _ in range(self.size.steps):
            moved = move(self.host, self.device)
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, torch.bfloat16):
                final = self.student.final(moved.student)
            align(final.image.float(), final.text.float(), self.student.similarity.scale).backward()
            self.optimizer.step()

    def cached(self) -> None:
        for (batch, outputs), ready in prefetch(lambda _: self.read_ahead(self.host), range(self.size.steps), depth=2):
            await_upload((batch, outputs), ready)
            self.distil(batch, outputs)

    def online(self) -> None:
        for _ in range(self.size.steps):
            batch = move(self.host, self.device)
            self.distil(batch, self.live.outputs(batch, self.needs))

    def alone(self) -> None:
        for _ in range(self.size.steps):
            self.live.outputs(move(self.host, self.device), self.needs)

    def read_ahead(self, batch: Batch) -> tuple[tuple[Batch, TeacherOutputs], Any]:
        """A batch and its stored rows on the device, with the event after which they are there."""
        return uploaded(lambda: (move(batch, self.device), self.stored.outputs(batch, self.needs)), self.device)

    def distil(self, batch: Batch, outputs: TeacherOutputs) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        backward(self.objective, self.learner, StepInputs(batch, outputs, self.stage, self.needs), torch.bfloat16)
        self.optimizer.step()


def end_to_end(bench: Bench, folder: Path, workers: int | None) -> dict[str, float]:
    """Seconds a step from JPEG files, the share of them that waits for data, and the decoding alone."""
    size, data = bench.size, {"train": str(folder / "captions.csv"), "ram_mb": 0, "views": 1}
    if workers is not None and "workers" in DataConfig.__struct_fields__:
        data["workers"] = workers
    config = DataConfig(**data)
    samples = open_samples(config.train, config, None)
    loader = Loader(samples, config, InputSpec(bench.student.size, bench.student.tokenizer), None, size.batch, 0)

    def prepared(_: int, batch: Batch) -> Any:
        student = trimmed(bench.student, batch.student)
        return bench.read_ahead(Batch(batch.samples, batch.captions % size.files, batch.views, student))

    steps = max(2, min(4 * size.steps, 3 * loader.steps_per_epoch))
    batches: Iterator[Any] = loader.iterate(0, steps, prepared)
    waited, began = 0.0, 0.0
    for k in range(steps):
        asked = time.perf_counter()
        _, ((batch, outputs), ready) = next(batches)
        if k == 0:  # the first batch has nothing to hide behind
            synchronise(bench.device)
            began = time.perf_counter()
        else:
            waited += time.perf_counter() - asked
        await_upload((batch, outputs), ready)
        bench.distil(batch, outputs)
    synchronise(bench.device)
    spent = time.perf_counter() - began
    return {"ms": 1e3 * spent / steps, "waiting_for_data": waited / spent, "steps": steps}


def objective_on(objective: Objective, targets: Targets) -> Objective:
    """The objective with the bridge's facts of `targets`, on their device."""
    return Objective(objective.method, objective.terms, objective.weights, Facts(targets.pairs))


def random_targets(shape: Shape) -> Targets:
    """A random calibration of the teacher's levels and bridge."""
    tensors = {f"pairs/{k}": torch.full((4, 4), 0.1) for k in ("temperatures", "information", "recall", "alpha")}
    for name, width in zip(IMAGE_LEVELS + TEXT_LEVELS, shape.image_widths + shape.text_widths, strict=True):
        tensors[f"{name}/mean"] = torch.zeros(width)
        tensors[f"{name}/basis"] = torch.randn(width, rank_for(width, CONFIG.rank)) / width**0.5
        tensors[f"{name}/bridge"] = torch.randn(2 * width, shape.embedding) / width**0.5
        tensors[f"{name}/bias"] = torch.zeros(shape.embedding)
    return Targets(tensors, CONFIG.grid)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def interleaved(bench: Bench, kinds: Mapping[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """(median ms a step, peak MiB) of each kind, in turns, after one warm-up round."""
    ms: dict[str, list[float]] = {name: [] for name in kinds}
    peak = dict.fromkeys(kinds, 0.0)
    on_gpu = bench.device.type == "cuda"
    for turn in range(bench.size.rounds + 1):
        for name, kind in kinds.items():
            synchronise(bench.device)
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            kind()
            synchronise(bench.device)
            if turn:
                ms[name].append(1e3 * (time.perf_counter() - began) / bench.size.steps)
                peak[name] = max(peak[name], torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0)
    return {name: (statistics.median(values), peak[name]) for name, values in ms.items()}


def gemm(bench: Bench) -> float:
    """TFLOP/s of a bf16 product of random square matrices."""
    side = bench.size.gemm
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    ms, _ = interleaved(bench, {"gemm": lambda: [a @ b for _ in range(bench.size.steps)]})["gemm"]
    return 2 * side**3 / ms / 1e9


def measure(size: Size, device: torch.device, folder: Path, deadline: float, workers: int | None) -> None:
    """Print all lines; what would begin after the deadline is named and left out."""
    torch.manual_seed(0)
    bench = Bench(size, device, folder)
    rate, facts = gemm(bench), about(size, device)
    say = partial(line, size, rate, facts)
    kinds = {"plain": bench.plain, "cached": bench.cached, "online": bench.online, "teacher": bench.alone}
    found = interleaved(bench, kinds)
    for name, (ms, peak) in found.items():
        say(name, ms, peak_mib=round(peak))
    ratios(found, facts)
    if time.monotonic() < deadline:
        write_pictures(folder, size.files, size.picture)
        end_to_end(bench, folder, workers)  # warms up the decoder and the allocator
        real = end_to_end(bench, folder, workers)
        print_ratio("end to end / cached", real["ms"] / found["cached"][0], facts)
        say("end to end", real.pop("ms"), **real, workers=workers)
    else:
        print(json.dumps({"left_out": "end to end", **facts}))
    if time.monotonic() >= deadline:
        print(json.dumps({"left_out": "compiled", **facts}))
        return
    began = time.perf_counter()
    backend = "inductor" if device.type == "cuda" else "eager"  # a toy run must not wait for a compiler
    done = [compile_blocks(tower, torch.bfloat16, backend) for tower in (bench.student, bench.teacher)]
    compiled = interleaved(bench, kinds) if all(done) else {}
    for name, (ms, peak) in compiled.items():
        say(name, ms, peak_mib=round(peak), compiled=True, compile_s=round(time.perf_counter() - began, 1))
    if compiled:
        ratios(compiled, {**facts, "compiled": True})


def ratios(found: dict[str, tuple[float, float]], facts: dict[str, Any]) -> None:
    for above, below in (("cached", "plain"), ("online", "cached")):
        print_ratio(f"{above} / {below}", found[above][0] / found[below][0], facts)


def print_ratio(name: str, value: float, facts: dict[str, Any]) -> None:
    print(json.dumps({"ratio": name, "value": round(value, 3), "goal": GOALS[name], **facts}), flush=True)


def line(size: Size, rate: float, facts: dict[str, Any], kind: str, ms: float, **more: Any) -> None:
    """One measurement with its share of the GEMM rate; the FLOPs are those of ViT-L/14 → ViT-B/16."""
    flops = {"teacher": GFLOP["teacher"], "online": sum(GFLOP.values())}.get(kind, GFLOP["student"])
    share = None if size is TOY else round(flops * size.batch / ms / rate, 3)
    row = {"kind": kind, "ms": round(ms, 2), "pairs_per_s": round(1e3 * size.batch / ms), "share_of_gemm": share,
           "gemm_tflops": round(rate, 1), "goal": GOALS.get(kind), **more, **facts}  # fmt: skip
    print(json.dumps(row), flush=True)


def about(size: Size, device: torch.device) -> dict[str, Any]:
    card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    command = shlex.join(["python", "-m", "benchmarks.on_gpu", *sys.argv[1:]])
    return {"batch": size.batch, "student": size.student, "teacher": size.teacher, "card": card, "torch": torch.__version__,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S"), "command": command}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_gpu", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU: does the benchmark itself run")
    parser.add_argument(
        "--seconds", type=float, default=150.0, help="no further part begins after so many; default: 150"
    )
    parser.add_argument("--workers", type=int, help="processes that decode JPEGs; default: the Loader's own choice")
    got = parser.parse_args(argv)
    if not got.toy and not torch.cuda.is_available():
        parser.error("no GPU here; --toy runs the same code small on a CPU")
    with tempfile.TemporaryDirectory() as folder:
        device, size = (torch.device("cpu"), TOY) if got.toy else (torch.device("cuda"), WHOLE)
        measure(size, device, Path(folder), time.monotonic() + got.seconds, got.workers)


if __name__ == "__main__":
    main()
