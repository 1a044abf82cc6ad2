"""Image towers at another side in pixels than their own, with position embeddings interpolated by open_clip's and timm's functions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.towers.sources.weights import load_strict


def at_size(model_cfg: dict[str, Any], size: int | None) -> dict[str, Any]:
    """The open_clip config of an image tower that reads images of `size` pixels; the config itself where that is None."""
    if size is None:
        return model_cfg
    changed = copy.deepcopy(model_cfg)
    changed["vision_cfg"]["image_size"] = size
    return changed


def load_at_size(
    clip: nn.Module, state: dict[str, Tensor] | None, where: Path | None, name: str, size: int | None
) -> None:
    """Load weights, of another image size where `size` is given, into a model built by `at_size`, and set a timm trunk to it.

    state: None for a model that keeps its random weights. Raises UsageError where they do not fit.
    """
    if state is not None:
        if size is not None:
            from open_clip.model import resize_pos_embed

            try:
                resize_pos_embed(state, clip)
            except RuntimeError:  # a grid of tokens that is not square with one class token
                raise UsageError(
                    f"weights {where}: open_clip cannot interpolate their position embeddings to {size} pixels; leave "
                    "image_size out"
                ) from None
        load_strict(clip, state, where, name)
    if size is not None and hasattr(clip.visual, "set_input_size"):
        try:
            clip.visual.set_input_size(size)  # type: ignore[operator, union-attr]
        except (AssertionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:100]
            raise UsageError(
                f"model {name}: its trunk cannot read images of {size} pixels ({reason}); choose another image_size"
            ) from None
