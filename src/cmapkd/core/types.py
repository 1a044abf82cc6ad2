"""The nouns of the project: Pair, Inputs, Batch, Features, and the dimension key.

Dimension key: B batch, N tokens of a level, D width, E joint embedding width, L context length,
W words, K = 4 levels per modality, H side of a square token grid, V views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")
U = TypeVar("U")

IMAGE_LEVELS = ("P2", "P3", "P4", "P5")
TEXT_LEVELS = ("L1", "L2", "L3", "L4")
LEVELS = IMAGE_LEVELS + TEXT_LEVELS


@dataclass(frozen=True)
class Pair(Generic[T]):
    """One thing per modality, so that image and text are written once."""

    image: T
    text: T

    def map(self, f: Callable[[T], U]) -> Pair[U]:
        return Pair(f(self.image), f(self.text))

    def zip(self, other: Pair[U]) -> Pair[tuple[T, U]]:
        return Pair((self.image, other.image), (self.text, other.text))


@dataclass(frozen=True)
class Inputs:
    """What one model is fed; teacher and student each have their own resolution and tokenizer.

    images: uint8 [B, 3, H, W], normalised inside the tower with its own mean and std.
    ids: int64 [B, L] token ids. words: int64 [B, L] index of the word each token belongs to, -1 for
    start, end and padding.
    """

    images: Tensor
    ids: Tensor
    words: Tensor


@dataclass(frozen=True)
class Batch:
    """One step's samples. Rows address the teacher cache, `images` is the identity that makes positives.

    samples: int64 [B] image index in the dataset; captions: int64 [B] caption index;
    views: int64 [B] which stored augmentation of the image was replayed.
    """

    samples: Tensor
    captions: Tensor
    views: Tensor
    student: Inputs
    teacher: Inputs | None = None

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Features:
    """What a tower says of one modality.

    levels: four token tensors [B, N_k, D_k], shallow to deep (P2..P5 or L1..L4).
    masks: per level bool [B, N_k], True where a token is real, or None when all are.
    pooled: four tensors [B, 2·D_k], what the bridge reads (mean ‖ max, or summary ‖ mean at the last level).
    final: [B, E] final embedding, not normalised.
    """

    levels: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    pooled: tuple[Tensor, ...]
    final: Tensor
