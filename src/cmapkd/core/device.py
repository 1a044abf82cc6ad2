"""Where and in which precision a model runs: the config's words as torch's objects."""

from __future__ import annotations

import torch

from cmapkd.core.errors import UsageError


def pick_device(name: str) -> torch.device:
    """`auto` is cuda where there is one. Raises UsageError for a name that torch does not know or cannot use here."""
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
    """`auto` is bf16 on a GPU and fp32 on a CPU: one without bf16 instructions emulates them some fifty times slower,
    and small towers are not faster with them either.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32
