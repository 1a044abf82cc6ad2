"""Toy models with one side: image models of timm, torchvision and transformers with files of random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from families import hugging_face


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


def dinov2(folder: Path) -> str:
    """A folder of a small DINOv2 with a class token."""
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=48, patch_size=8
    )
    hugging_face.write(folder, lambda: transformers.Dinov2Model(config), None)
    return f"hf:{folder}"


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
} | {"hf-vision": dinov2, "torchvision": partial(torchvision_model, "shufflenet_v2_x0_5")}
