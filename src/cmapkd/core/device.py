"""Device and precision: the config's words as torch objects."""

from __future__ import annotations

import torch

from cmapkd.core.errors import UsageError


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto` is cuda if available, else cpu. Raises UsageError for an unknown or unusable device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"train.device '{name}' is not a device; use auto, cpu or cuda") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"train.device '{name}' cannot be used here ({reason}); use auto or cpu") from None
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a precision's name; `auto` is bf16 on a GPU that computes in it, else fp32.

    GPUs before Ampere and CPUs without bf16 instructions emulate bf16, some fifty times slower; on other CPUs small
    towers are not faster in it.
    """
    if name == "auto":
        return torch.bfloat16 if _computes_bf16(device) else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def _computes_bf16(device: torch.device) -> bool:
    """Whether the device is a GPU with bf16 arithmetic of its own."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)
