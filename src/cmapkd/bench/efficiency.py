"""What a model costs: parameters, bytes, FLOPs and MACs, latency, peak memory."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cmapkd.bench.evaluate import open_model
from cmapkd.core.types import Pair

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
    the interpreter included; NaN where the system cannot say.
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

    @property
    def macs(self) -> Pair[int]:
        return self.flops.map(lambda flops: flops // 2)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a line of JSON."""
        return {**asdict(self), "macs": asdict(self.macs)}

    def lines(self) -> list[str]:
        """For people: one figure a line, with device and threads beside the times."""
        said = [
            f"parameters {self.params / 1e6:.2f} M ({self.params_without_tokens / 1e6:.2f} M without token embeddings; "
            f"image {self.tower_params.image / 1e6:.2f} M, text {self.tower_params.text / 1e6:.2f} M)",
            f"weights {self.megabytes:.1f} MB, peak memory {self.peak_mb:.0f} MB",
        ]
        for name, flops, latencies in (
            ("image", self.flops.image, self.latency.image),
            ("text", self.flops.text, self.latency.text),
        ):
            times = ", ".join(f"batch {each.batch}: p50 {each.p50:.2f} p95 {each.p95:.2f} ms" for each in latencies)
            said.append(f"{name} {flops / 1e9:.2f} GFLOP = {flops / 2e9:.2f} GMAC; {times}")
        return [*said, f"measured on {self.device}, {self.threads} threads"]


def measure(
    clip: nn.Module, image_size: int, context: int, file: Path | None = None, seconds: float = 2.0
) -> Efficiency:
    """Measure an open_clip CLIP on the device and in the dtype it is in.

    file: its weights on disk (default: the bytes of its tensors); seconds: time budget of each latency.
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
    size = file.stat().st_size if file else sum(t.numel() * t.element_size() for t in clip.state_dict().values())
    return Efficiency(
        every, every - tokens, towers, size / 1e6, flops, times, peak, device_name(device), torch.get_num_threads()
    )


def parameters(clip: nn.Module) -> tuple[int, Pair[int], int]:
    """(all, image and text tower, token embeddings); the scale belongs to neither tower, tied tensors count once."""
    every = sum(p.numel() for p in clip.parameters())
    image = sum(p.numel() for p in clip.visual.parameters())  # type: ignore[union-attr]
    scales = sum(p.numel() for name, p in clip.named_parameters() if name in ("logit_scale", "logit_bias"))
    tables = ("token_embedding.weight", "word_embeddings.weight")
    tokens = sum(p.numel() for name, p in clip.named_parameters() if name.endswith(tables))
    return every, Pair(image, every - image - scales), tokens


@torch.no_grad()
def count_flops(clip: nn.Module, image_size: int, context: int) -> Pair[int]:
    """FLOPs of one image and one text, softmax and norms not counted.

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
    """PyTorch's fused attention off inside the block."""
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


def reset_peak(device: torch.device) -> None:
    """Forget earlier peaks: CUDA's counter, or Linux's high-water mark of the resident size."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # Not Linux, or not allowed: the peak is then that of the whole process so far, which is never too small.
        return


def peak_megabytes(device: torch.device) -> float:
    """Largest memory since `reset_peak`, in 10^6 bytes; NaN on a device whose memory cannot be asked for."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if device.type != "cpu":
        return float("nan")
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    said = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in said if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def print_efficiency(models: list[str]) -> None:
    """The figures of each model: a run folder, an open_clip folder or a model name."""
    for model in models:
        tower = open_model(model)
        print(f"{model}: " + "\n  ".join(measure(tower.clip, tower.size, tower.tokenizer.context).lines()))
