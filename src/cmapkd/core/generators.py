"""Random generators that a run draws from: torch's own on the CPU, and on each CUDA device that is in use."""

from __future__ import annotations

import torch
from torch import Tensor


def states() -> dict[str, Tensor]:
    """The state of every generator by name, uint8 tensors."""
    found = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found |= {f"cuda-{k}": state for k, state in enumerate(torch.cuda.get_rng_state_all())}
    return found


def restore(kept: dict[str, Tensor]) -> None:
    """Set the generators to kept states; a device that is not there any more is left out."""
    torch.set_rng_state(kept["torch"])
    for name, state in kept.items():
        if name.startswith("cuda-") and int(name[5:]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, int(name[5:]))
