"""Image models of torchvision by name, read as a module whose levels are the last map of each of its last four resolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.core.errors import UsageError, did_you_mean
from cmapkd.towers.evaluating import evaluating
from cmapkd.towers.sources.module import LEVELS, Backbone
from cmapkd.towers.sources.weights import load_strict, read_state

SCHEME = "torchvision:"


def torchvision_facts(name: str) -> dict[str, Any]:
    """Image size, mean and std of a torchvision model, those of its default weights; nothing is built or downloaded.

    Raises UsageError for an unknown name.
    """
    from torchvision import models

    plain, known = name.removeprefix(SCHEME), models.list_models(module=models)
    if plain not in known:
        raise UsageError(
            f"model '{name}': torchvision has no classifier of that name{did_you_mean(plain, known)}; see "
            "torchvision.models.list_models(module=torchvision.models)"
        )
    found: Any = models.get_model_weights(plain).DEFAULT.transforms()  # type: ignore[attr-defined]
    return {"image_size": int(found.crop_size[0]), "mean": tuple(found.mean), "std": tuple(found.std)}


def backbone(name: str, weights: Path | None = None) -> Backbone:
    """A torchvision model without its last linear layer, and how it is read.

    Raises UsageError for a model without four resolutions, and for weights that are not the model's.
    """
    from torchvision import models

    facts = torchvision_facts(name)
    model = models.get_model(name.removeprefix(SCHEME), weights=None)
    linear = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or any("aux" in key for key, _ in model.named_children()):
        raise UsageError(
            f"model '{name}': ends in no linear classifier, or in several; use timm's model of that kind, or a module of your own"
        )
    place, _, last = linear[-1].rpartition(".")
    setattr(model.get_submodule(place), last, nn.Identity())
    if weights is not None:
        state = {key: value for key, value in read_state(weights).items() if not key.startswith(f"{linear[-1]}.")}
        load_strict(model, state, weights, name)
    module = Staged(model, facts["image_size"], name)
    return Backbone(module, (), facts["image_size"], facts["mean"], facts["std"], source=name)


class Staged(nn.Module):
    """A classifier without its last layer, and the modules whose outputs are P2..P5."""

    def __init__(self, model: nn.Module, size: int, name: str) -> None:
        super().__init__()
        self.model = model
        self._channels_last = type(model).__name__ == "SwinTransformer"  # maps [B, H, W, C]
        modules = dict(_pieces(model))
        with evaluating(model), torch.no_grad():
            outputs, _ = self._run(torch.zeros(1, 3, size, size), modules)
        of_side = {
            out.shape[-1]: key for key, out in outputs.items() if out.ndim == 4 and out.shape[-1] == out.shape[-2]
        }
        sides = sorted((side for side in of_side if side > 1), reverse=True)[-LEVELS:]
        if len(sides) < LEVELS:
            raise UsageError(
                f"model '{name}': has maps of {len(sides)} resolutions, but P2..P5 are those of four; use timm's model of that kind: "
                "timm:NAME"
            )
        self._taps = {of_side[side]: modules[of_side[side]] for side in sides}

    def levels(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(P2, P3, P4, P5, embedding)."""
        outputs, embedding = self._run(pixels, self._taps)
        return *(outputs[key] for key in self._taps), embedding

    def _run(self, pixels: Tensor, modules: dict[str, nn.Module]) -> tuple[dict[str, Tensor], Tensor]:
        """(the outputs of `modules` as maps [B, C, H, W] in the order in which they ran, the embedding [B, D])."""
        kept: dict[str, Any] = {}
        hooks = [
            each.register_forward_hook(lambda _, __, out, key=key: kept.__setitem__(key, out))
            for key, each in modules.items()
        ]
        try:
            embedding = self.model(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        if self._channels_last:
            kept = {key: out.permute(0, 3, 1, 2) if out.ndim == 4 else out for key, out in kept.items()}
        return kept, embedding


def _pieces(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The children of a model by name, in place of plain lists and sequences of modules their own children."""
    found = []
    for name, child in module.named_children():
        plain = type(child) in (nn.Sequential, nn.ModuleList)
        found += _pieces(child, f"{prefix}{name}.") if plain else [(prefix + name, child)]
    return found
