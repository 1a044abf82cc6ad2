"""The nouns of the project: Pair, Inputs, Batch, Features, and the dimension key.

Dimension key: B batch, N tokens of a level, D width, E joint embedding width, L context length,
W words, K = 4 levels per modality, H side of a square token grid, V views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor, nn

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


@dataclass(frozen=True)
class Teaching:
    """What the teacher says of a batch, the same whether it ran just now or was read from the cache.

    levels: calibrated targets T_k [B, N_k, r] of the levels asked for; masks: bool [B, N_k] of L1 and L2;
    bridge: [B, 4, E] per modality, unit rows in the shared space; final: [B, E] per modality, unit rows;
    scale: exp(logit_scale) of the teacher; places: int64 [B, N_k] cells of a side × side grid that the tokens of
    P2-P4 stand at, when only key tokens are kept. others: (final, scale) of each further stored teacher; read: bytes of
    the cache that it took.
    """

    levels: dict[str, Tensor]
    masks: dict[str, Tensor]
    bridge: Pair[Tensor]
    final: Pair[Tensor]
    scale: float
    places: Tensor | None = None
    side: int = 0
    others: tuple[tuple[Pair[Tensor], float], ...] = ()
    read: int = 0


@dataclass(frozen=True)
class Outputs:
    """What the learner says of a batch, before any loss: every tensor here has the batch as its first axis.

    final: student embeddings [B, E_s]; projected: the same in the teacher's width [B, E]; levels: predictions
    S_k [B, N_k, r]; pooled: native level summaries [B, D_k]; bridge: [B, 4, E] or None; masks: of L1 and L2; masked: [B, E], projected image embeddings of masked images.
    """

    final: Pair[Tensor]
    projected: Pair[Tensor]
    levels: dict[str, Tensor]
    masks: dict[str, Tensor]
    pooled: dict[str, Tensor]
    bridge: Pair[Tensor] | None
    masked: Tensor | None = None


@dataclass(frozen=True)
class View:
    """All that a term may read: student and teacher outputs on one batch.

    errors: normalised level errors [B, K_active] per modality, in the order of `levels`, or None;
    coupling: α_ij [4, 4] or per sample [B, 4, 4]; temperatures: τ_ij [4, 4]; positives: bool [B, B];
    labels: int64 [B], −1 where unknown; classes: class text embeddings [C, E_s] or None; bank: the teacher's class
    texts, unit rows [C, E]; samples: int64 [B] image indices; parts: what is learnt for single terms, by term;
    inputs: the teacher's own pixels and ids; progress: share of the training that is done; options: the switches that
    the config sets, by term.
    """

    student: Outputs
    scale: Tensor
    positives: Tensor
    teaching: Teaching | None = None
    errors: Pair[Tensor | None] = Pair(None, None)
    coupling: Tensor | None = None
    temperatures: Tensor | None = None
    labels: Tensor | None = None
    classes: Tensor | None = None
    bank: Tensor | None = None
    samples: Tensor | None = None
    parts: Mapping[str, nn.Module] = field(default_factory=dict)
    inputs: Inputs | None = None
    progress: float = 0.0
    options: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)

    @property
    def taught(self) -> Teaching:
        """The teaching, for terms that read one."""
        assert self.teaching is not None, "this term reads a teacher, and there is none"
        return self.teaching
