"""From an open_clip model to a DualEncoder: an adapter is chosen for each of its two towers."""

from __future__ import annotations

from typing import Any

from torch import nn

from cmapkd.core.errors import UsageError
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.image_conv import ConvImage, last_stages
from cmapkd.towers.image_vit import VitImage, vit_blocks
from cmapkd.towers.protocols import ImageTower, TextTower
from cmapkd.towers.similarity import Similarity
from cmapkd.towers.text_clip import ClipText, has_blocks, text_part
from cmapkd.towers.text_final import FinalText
from cmapkd.towers.tokenizer import Tokenizer


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
    text: TextTower = (ClipText if has_blocks(text_part(clip)) else FinalText)(clip, tokenizer, words)
    return DualEncoder(clip, image, text, Similarity(clip), config, name)


def image_tower(visual: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> ImageTower:
    """The adapter of an open_clip image tower."""
    if (blocks := vit_blocks(visual)) is not None:
        return VitImage(visual, blocks, size, mean, std)
    if (stages := last_stages(visual)) is not None:
        return ConvImage(visual, stages, size, mean, std)
    raise UsageError(f"image tower {type(visual).__name__} gives no intermediate features; use an open_clip ViT or RN")
