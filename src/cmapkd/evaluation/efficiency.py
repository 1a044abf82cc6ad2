"""Efficiency of a model: parameters, bytes, FLOPs and MACs, latency, peak memory, hours of training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.core.log import read_rows
from cmapkd.core.types import Pair
from cmapkd.evaluation.device import device_name, peak_megabytes, reset_peak
from cmapkd.evaluation.encoders import Encoders
from cmapkd.evaluation.evaluate import config_of, open_model
from cmapkd.export.run import METHOD_TENSORS
from cmapkd.towers.named import weight_files

BATCHES = (1, 32)


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch of `batch`, after warm-up; divide by `batch` for a sample."""

    batch: int
    p50: float
    p95: float
    runs: int


@dataclass(frozen=True)
class Efficiency:
    """params: all, and `params_without_tokens` without token embeddings (papers differ, so both are said).

    flops: floating-point operations of one image and of one text; a multiply-add counts two, in `macs` one.
    megabytes: weights on disk, 10^6 bytes. peak_mb: largest resident (or GPU) memory while measuring the larger batch,
    the interpreter included; NaN where the system cannot say. train_hours: as the run's log says, None where none does.
    """

    params: int
    params_without_tokens: int
    tower_params: Pair[int]
    megabytes: float
    flops: Pair[int]
    latency: Pair[tuple[Latency, ...]]
    peak_mb: float
    device: str
    threads: int
    train_hours: float | None = None

    @property
    def macs(self) -> Pair[int]:
        return self.flops.map(lambda flops: flops // 2)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a line of JSON."""
        return {**asdict(self), "macs": asdict(self.macs)}

    def lines(self) -> list[str]:
        """Text output: one figure per line, with device and threads beside the times."""
        said = [
            f"parameters {self.params / 1e6:.2f} M ({self.params_without_tokens / 1e6:.2f} M without token embeddings; "
            f"image {self.tower_params.image / 1e6:.2f} M, text {self.tower_params.text / 1e6:.2f} M)",
            f"weights {self.megabytes:.1f} MB, peak memory {self.peak_mb:.0f} MB",
        ]
        for name, flops, latencies in (
            ("image", self.flops.image, self.latency.image),
            ("text", self.flops.text, self.latency.text),
        ):
            times = ", ".join(
                f"batch {each.batch}: {each.p50 / each.batch:.2f} ms each (of the batch p50 {each.p50:.2f} p95 {each.p95:.2f})"
                for each in latencies
            )
            said.append(f"{name} {giga(flops)}FLOP = {giga(flops / 2)}MAC; {times}")
        if self.train_hours is not None:
            said.append(f"trained in {self.train_hours:.2f} h (validation and the teacher's cache not counted)")
        return [*said, f"measured on {self.device}, {self.threads} thread{'s' * (self.threads != 1)}"]

    def against(self, other: Efficiency) -> str:
        """The costs as a share of another model's, and the speed-up at each batch size."""
        times = zip(BATCHES, self.latency.image, other.latency.image, strict=True)
        speed = ", ".join(f"{theirs.p50 / mine.p50:.2f}× at batch {batch}" for batch, mine, theirs in times)
        return (
            f"{100 * self.params / other.params:.1f} % of the parameters, "
            f"{100 * self.flops.image / other.flops.image:.1f} % of the image FLOPs, image speed {speed}"
        )


def giga(count: float) -> str:
    """`8.82 G`, or `14.3 M` for a small tower, for which two decimals of a G are too coarse."""
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.3g} M"


def measure(
    clip: nn.Module,
    image_size: int,
    context: int,
    files: Sequence[Path] = (),
    seconds: float = 2.0,
) -> Efficiency:
    """Measure an open_clip CLIP, or Encoders, on the device and in the dtype it is in.

    files: its weights on disk (default: the bytes of its tensors); seconds: time budget of each latency.
    """
    device = next(clip.parameters()).device
    inputs = example_inputs(image_size, context, max(BATCHES), device)
    was_training = clip.training
    clip.eval()
    reset_peak(device)
    try:
        encode = Pair[Callable[[Tensor], Tensor]](clip.encode_image, clip.encode_text)  # type: ignore[arg-type]
        times = encode.zip(inputs).map(
            lambda each: tuple(latency(each[0], each[1][:batch], seconds) for batch in BATCHES)
        )
        peak = peak_megabytes(device)
        flops = count_flops(clip, image_size, context)
    finally:
        clip.train(was_training)
    every, towers, tokens = parameters(clip)
    size = sum(file.stat().st_size for file in files) or sum(
        t.numel() * t.element_size() for t in clip.state_dict().values()
    )
    return Efficiency(
        every, every - tokens, towers, size / 1e6, flops, times, peak, device_name(device), torch.get_num_threads()
    )


def parameters(clip: nn.Module) -> tuple[int, Pair[int], int]:
    """(all, image and text tower, token embeddings); the scale belongs to neither tower, tied tensors count once."""
    every = sum(p.numel() for p in clip.parameters())
    image = sum(p.numel() for p in clip.visual.parameters())  # type: ignore[union-attr]
    scales = sum(p.numel() for name, p in clip.named_parameters() if name.endswith(("logit_scale", "logit_bias")))
    tables = ("token_embedding.weight", "word_embeddings.weight", "embed_tokens.weight")
    tokens = sum(p.numel() for name, p in clip.named_parameters() if name.endswith(tables))
    return every, Pair(image, every - image - scales), tokens


@torch.no_grad()
def count_flops(clip: nn.Module, image_size: int, context: int) -> Pair[int]:
    """FLOPs of one image and one text, without softmax and norms.

    The fused attention that PyTorch takes in eval mode has no formula and would be counted as nothing (ViT-B/32 would
    read 5.89 instead of 8.82 GFLOP), so it is switched off meanwhile. Works on the meta device too.
    """
    inputs = example_inputs(image_size, context, 1, next(clip.parameters()).device)
    with countable_attention():
        counts = []
        for encode, x in ((clip.encode_image, inputs.image), (clip.encode_text, inputs.text)):
            with FlopCounterMode(display=False) as counter:
                encode(x)  # type: ignore[operator]
            counts.append(counter.get_total_flops())
    return Pair(*counts)


@contextmanager
def countable_attention() -> Iterator[None]:
    """A context in which PyTorch's fused attention is off."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def example_inputs(image_size: int, context: int, batch: int, device: torch.device) -> Pair[Tensor]:
    """Zeros of the right shapes: normalised images [B, 3, S, S] and token ids [B, L]."""
    return Pair(
        torch.zeros(batch, 3, image_size, image_size, device=device),
        torch.zeros(batch, context, dtype=torch.int64, device=device),
    )


@torch.inference_mode()
def latency(
    encode: Callable[[Tensor], Tensor],
    inputs: Tensor,
    seconds: float,
    warm_up: int = 3,
    least: int = 5,
    most: int = 200,
) -> Latency:
    """Wall-clock percentiles over as many runs as fit into `seconds`, between `least` and `most`."""

    def once() -> float:
        start = time.perf_counter()
        encode(inputs)
        if inputs.is_cuda:
            torch.cuda.synchronize(inputs.device)
        return 1e3 * (time.perf_counter() - start)

    for _ in range(warm_up):
        once()
    times: list[float] = []
    while len(times) < least or (len(times) < most and sum(times) < 1e3 * seconds):
        times.append(once())
    p50, p95 = np.percentile(times, [50, 95])
    return Latency(len(inputs), float(p50), float(p95), len(times))


def print_efficiency(models: list[str], out: Path | None = None, threads: int | None = None) -> None:
    """The figures of each model: a run folder, a model's folder or its name; of later ones also against the first.

    out: a file of one JSON line a model; threads: of PyTorch, its own choice unless given. Raises UsageError for a
    place where nothing can be written, and for less than one thread.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"efficiency --threads {threads}: at least 1")
    if threads:
        torch.set_num_threads(threads)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UsageError(f"efficiency --out {out}: is a folder, or in a folder that does not exist; give a new file")
    found: dict[str, Efficiency] = {}
    for model in models:
        found[model] = cost = efficiency_of(model)
        first = next(iter(found))
        more = [] if model == first else [f"against {first}: {cost.against(found[first])}"]
        if (Path(model) / "student" / METHOD_TENSORS).is_file():
            more.append(
                f"of the student alone; what the run's scores belong to also takes {METHOD_TENSORS} and the teacher"
            )
        print(f"{model}: " + "\n  ".join([*cost.lines(), *more]), flush=True)
    if out is not None:
        lines = [json.dumps({"model": model, **cost.to_json()}) for model, cost in found.items()]
        fsio.write_bytes(out, "".join(f"{line}\n" for line in lines).encode())


def efficiency_of(model: str) -> Efficiency:
    """Measure the model that `model` names; it is freed afterwards."""
    tower, files = open_model(model), weight_files(config_of(model))
    cost = measure(Encoders(tower), tower.size, tower.tokenizer.context, files)
    return replace(cost, train_hours=train_hours(Path(model)))


def train_hours(run: Path) -> float | None:
    """Hours of training of a finished run; None for anything but a run, and for a resumed run."""
    log = run / "metrics.jsonl"
    rows = read_rows(log) if log.is_file() else []
    seconds = next((row["train_seconds"] for row in reversed(rows) if "train_seconds" in row), None)
    return None if seconds is None else seconds / 3600
