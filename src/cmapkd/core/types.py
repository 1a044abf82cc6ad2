"""The nouns of the project: pairs, batches, features, teacher and student outputs, and the dimension key.

Dimension key: B batch, N tokens of a level, D width, E joint embedding width, L context length,
W words, K = 4 levels per modality, H side of a square token grid, V views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
U = TypeVar("U")

IMAGE_LEVELS = ("P2", "P3", "P4", "P5")
TEXT_LEVELS = ("L1", "L2", "L3", "L4")
LEVELS = IMAGE_LEVELS + TEXT_LEVELS
Side = Literal["image", "text"]
SIDES: tuple[Side, ...] = ("image", "text")


@dataclass(frozen=True)
class Pair(Generic[T]):
    """One thing per modality, so that image and text are written once."""

    image: T
    text: T

    def of(self, side: Side) -> T:
        return self.image if side == "image" else self.text

    def map(self, f: Callable[[T], U]) -> Pair[U]:
        return Pair(f(self.image), f(self.text))

    def zip(self, other: Pair[U]) -> Pair[tuple[T, U]]:
        return Pair((self.image, other.image), (self.text, other.text))


@dataclass(frozen=True)
class LogitScale:
    """Scale and bias that make logits of cosines: z = scale · cos(image, text) + bias.

    Without a bias the softmax of a row says which text an image goes with (CLIP). With one the sigmoid of each pair says
    whether it is a match (SigLIP, Zhai et al. 2023, arXiv 2303.15343).
    """

    scale: Tensor | float
    bias: Tensor | float | None = None

    @property
    def kind(self) -> Literal["softmax", "sigmoid"]:
        return "softmax" if self.bias is None else "sigmoid"

    def logits(self, cosines: Tensor) -> Tensor:
        """z of cosines of any shape."""
        return self.scale * cosines if self.bias is None else self.scale * cosines + self.bias

    def at(self, scale: float) -> LogitScale:
        """The same at another scale; the cosine that the sigmoid calls even, −bias / scale, stays."""
        return LogitScale(scale, None if self.bias is None else self.bias * (scale / self.scale))


@dataclass(frozen=True)
class Inputs:
    """Inputs of one model; teacher and student each have their own resolution and tokenizer.

    images: uint8 [B, 3, H, W], normalised inside the tower with its own mean and std.
    ids: int64 [B, L] token ids. words: int64 [B, L] index of the word each token belongs to, -1 for
    start, end and padding. trimmed: the ids have no column of padding that the longest text does not need.
    """

    images: Tensor
    ids: Tensor
    words: Tensor
    trimmed: bool = False


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
    """Features of one modality, as a tower gives them; a tower without levels gives empty tuples beside its final embedding.

    levels: four token tensors [B, N_k, D_k], shallow to deep (P2..P5 or L1..L4).
    masks: per level bool [B, N_k], True where a token is real, or None when all are.
    pooled: four tensors [B, 2·D_k], read by the bridge (mean ‖ max, or summary ‖ mean at the last level).
    final: [B, E] final embedding, not normalised.
    """

    levels: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    pooled: tuple[Tensor, ...]
    final: Tensor


@dataclass(frozen=True)
class Tokens:
    """The tokens of one level of a batch.

    values: [B, N, D]. mask: bool [B, N], True where a token is real; None when all are. places: int64 [B, N], the cells of a
    side × side grid that key tokens stand at; None where `values` is a whole map or a sequence.
    """

    values: Tensor
    mask: Tensor | None = None
    places: Tensor | None = None
    side: int = 0


@dataclass(frozen=True)
class Needs:
    """Needs of one step: the inputs of the active terms and the policy. Nothing else is computed or read from the store.

    teacher: the teacher's final embeddings. levels: levels whose tokens student and teacher give. errors, tokens, summaries:
    those of them whose per-sample errors, tokens, and vectors the terms read. bridge: the student's rows in the shared
    space (and the teacher's). teacher_bridge: the teacher's rows. masked: the student's embeddings of masked images.
    class_prompts: the student's embeddings of the class prompts. teacher_inputs: the teacher's own pixels and ids.
    """

    teacher: bool = False
    levels: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    summaries: tuple[str, ...] = ()
    bridge: bool = False
    teacher_bridge: bool = False
    masked: bool = False
    class_prompts: bool = False
    teacher_inputs: bool = False


@dataclass(frozen=True)
class TeacherOutputs:
    """Teacher outputs of a batch, the same whether the teacher ran now or its features were read from the store.

    final: [B, E] per modality, unit rows; [B, 0] of a side that the teacher does not have. similarity: the teacher's scale and
    bias, plain numbers. levels: calibrated targets T_k, values
    [B, N_k, r], of the levels asked for. bridge: [B, 4, E] per modality, unit rows in the shared space, where asked for.
    summaries: one vector a level, [B, r]. others: (final, similarity) of each further stored teacher. read: bytes that were
    read from the store.
    """

    final: Pair[Tensor]
    similarity: LogitScale
    levels: dict[str, Tokens] = field(default_factory=dict)
    bridge: Pair[Tensor] | None = None
    summaries: dict[str, Tensor] = field(default_factory=dict)
    others: tuple[tuple[Pair[Tensor], LogitScale], ...] = ()
    read: int = 0

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that the teacher has."""
        return tuple(side for side in SIDES if self.final.of(side).shape[-1])

    @property
    def bridge_rows(self) -> Tensor:
        """Rows of all eight levels in the shared space [B, 8, E]."""
        assert self.bridge is not None, "the bridge was not asked for"
        return torch.cat([self.bridge.image, self.bridge.text], 1)


@dataclass(frozen=True)
class StudentOutputs:
    """Student outputs of a batch, before any loss: the batch is the first axis of every tensor here.

    final: student embeddings [B, E_s]. projected: the same in the teacher's width [B, E]. levels: predictions S_k, values
    [B, N_k, r]. errors: error of each level against the teacher's, [B]. summaries: one native vector a level, [B, D_k].
    bridge: [B, 4, E] per modality. masked: projected image embeddings of masked images [B, E].
    """

    final: Pair[Tensor]
    projected: Pair[Tensor]
    levels: dict[str, Tokens] = field(default_factory=dict)
    errors: dict[str, Tensor] = field(default_factory=dict)
    summaries: dict[str, Tensor] = field(default_factory=dict)
    bridge: Pair[Tensor] | None = None
    masked: Tensor | None = None
