"""Toy models with one side: image models of timm and torchvision with files of random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file


def timm_model(name: str, folder: Path) -> str:
    """`timm:NAME:FILE` of a model with seeded random weights, in half precision, classifier included."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model(name).state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, str(path))
    return f"timm:{name}:{path}"


def torchvision_model(name: str, folder: Path) -> str:
    """`torchvision:NAME:FILE` of a model with seeded random weights, classifier included."""
    from torchvision.models import get_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = get_model(name).state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file(state, str(path))
    return f"torchvision:{name}:{path}"


FAMILIES: dict[str, Callable[[Path], str]] = {
    name: partial(timm_model, name) for name in ("test_vit", "test_resnet", "test_convnext", "test_efficientnet")
} | {"torchvision": partial(torchvision_model, "shufflenet_v2_x0_5")}
