"""From an open_clip model to a DualEncoder: the first adapter that knows a tower is taken.

A family is a file of families/: `image_NAME.py` with IMAGE_TOWERS = {name: function}, or `text_NAME.py` with TEXT_TOWERS; the function gives
the adapter, or None for a tower of another family. Towers of stages, and texts without levels, are tried last.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from cmapkd.core.errors import UsageError
from cmapkd.core.registry import collected
from cmapkd.towers.dual import DualEncoder, Package
from cmapkd.towers.protocols import ImageTower, TextTower
from cmapkd.towers.similarity import Similarity
from cmapkd.towers.tokens.tokenizer import Tokenizer

PLACE = f"{__name__.rpartition('.')[0]}.families"
LAST = ("conv", "final")


def adapt(
    clip: nn.Module,
    tokenizer: Tokenizer,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    config: dict[str, Any],
    name: str,
    words: int = 24,
) -> DualEncoder:
    """Wrap `clip`, an open_clip CLIP or CustomTextCLIP, which stays the only owner of the weights.

    size, mean, std: of its images; config: its open_clip model config; words: length of L1.
    Raises UsageError for an image tower that gives no intermediate features.
    """
    image = image_tower(clip.visual, size, mean, std)  # type: ignore[arg-type]
    text = text_tower(clip, tokenizer, words)
    return DualEncoder(clip, image, text, Similarity(clip), Package("open_clip", config), name)


def image_tower(visual: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> ImageTower:
    """The adapter of an image tower. Raises UsageError where no family knows it."""
    for build in families("IMAGE_TOWERS", "image_"):
        if (found := build(visual, size, mean, std)) is not None:
            return found
    name = type(getattr(visual, "trunk", visual)).__name__
    raise UsageError(
        f"image tower {name}: gives no intermediate features (it has no forward_intermediates), from which P2..P5 are read; "
        "use an open_clip ViT or RN, or a timm trunk that has it"
    )


def text_tower(clip: nn.Module, tokenizer: Tokenizer, words: int) -> TextTower:
    """The adapter of a model's text tower."""
    return next(found for build in families("TEXT_TOWERS", "text_") if (found := build(clip, tokenizer, words)))


def families(table: str, prefix: str) -> list[Callable[..., Any]]:
    """The functions of all adapter files, in the order in which they are asked."""
    places = import_module(PLACE).__path__
    found = collected(PLACE, places, table, prefix=prefix)
    return [found[name] for name in sorted(found, key=lambda name: name in LAST)]
