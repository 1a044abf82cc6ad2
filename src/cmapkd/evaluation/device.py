"""The device of a measurement: its name and its peak memory."""

from __future__ import annotations

import platform
import resource
import sys
from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Reset the peak: CUDA's counter, or Linux's high-water mark of the resident size."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # Not Linux, or not allowed: the peak is then that of the whole process so far, which is never too small.
        return


def peak_megabytes(device: torch.device) -> float:
    """Largest memory since `reset_peak`, in 10^6 bytes; NaN on a device that cannot report it."""
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
