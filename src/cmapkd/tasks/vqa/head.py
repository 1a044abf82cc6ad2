"""VQA heads on a tower's features, their closed vocabulary of answers, and their loss.

The vocabulary of frequent training answers, soft targets and binary cross-entropy are those of Anderson et al. 2018
(arXiv:1707.07998) and Teney et al. 2018 (arXiv:1708.02711).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

FEED = 4  # the inner width of a feed-forward layer, in widths


@dataclass(frozen=True)
class Vocabulary:
    """The closed list of answers that a head can give; logit v is of `answers[v]`."""

    answers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.answers)

    @cached_property
    def index(self) -> dict[str, int]:
        return {answer: place for place, answer in enumerate(self.answers)}

    @property
    def words(self) -> dict[str, list[str]]:
        """The part of head.json that explains the weights."""
        return {"answers": list(self.answers)}

    def targets(self, earned: Sequence[Mapping[str, float]]) -> Float[Tensor, "b v"]:
        """Soft targets: the accuracy that each answer of the vocabulary earns on each question."""
        out = torch.zeros(len(earned), len(self))
        for row, scores in enumerate(earned):
            for answer, score in scores.items():
                if (place := self.index.get(answer)) is not None:
                    out[row, place] = score
        return out


def build_vocabulary(earned: Iterable[Mapping[str, float]], size: int) -> Vocabulary:
    """The `size` answers that would earn most over all questions; equal ones in alphabetical order."""
    total: dict[str, float] = defaultdict(float)
    for scores in earned:
        for answer, score in scores.items():
            total[answer] += score
    # Rounded, so that the order of the questions cannot change the sums.
    return Vocabulary(tuple(sorted(total, key=lambda answer: (-round(total[answer], 6), answer))[:size]))


@dataclass(frozen=True)
class TrainingAnswers:
    """The answers of training questions. earned: per question the accuracy of each of its answers.

    known: bool [questions], whether the vocabulary has any of them; the other questions are not trained on.
    """

    earned: Sequence[Mapping[str, float]]
    vocabulary: Vocabulary
    known: Bool[Tensor, " q"]

    def loss(self, logits: Float[Tensor, "b v"], asked: Sequence[int]) -> Float[Tensor, ""]:
        """The loss of the logits of the questions `asked`, by index."""
        return soft_bce(logits, self.vocabulary.targets([self.earned[i] for i in asked]).to(logits.device))


def training_answers(earned: Sequence[Mapping[str, float]], size: int) -> TrainingAnswers:
    """The vocabulary of the `size` answers that earn most, and the targets of every question."""
    vocabulary = build_vocabulary(earned, size)
    known = [any(answer in vocabulary.index for answer in scores) for scores in earned]
    return TrainingAnswers(earned, vocabulary, torch.tensor(known))


def soft_bce(logits: Float[Tensor, "b v"], targets: Float[Tensor, "b v"]) -> Float[Tensor, ""]:
    """Mean over questions of Σ_v BCE(σ(logit_v), target_v): each answer is judged by itself, as several may be right."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()


class FusionHead(nn.Module):
    """An MLP over [v ‖ t ‖ v ⊙ t ‖ |v − t|] of the two final embeddings, each normalised to unit variance."""

    def __init__(self, embedding: int, answers: int, width: int = 1024, dropout: float = 0.3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4 * embedding, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(width, answers),
        )  # fmt: skip

    def forward(self, image: Float[Tensor, "b e"], text: Float[Tensor, "b e"]) -> Float[Tensor, "b v"]:
        v, t = (F.layer_norm(x, x.shape[-1:]) for x in (image, text))
        return self.layers(torch.cat([v, t, v * t, (v - t).abs()], dim=-1))


class CoAttentionHead(nn.Module):
    """Visual and word tokens that read each other, `depth` times, then an MLP over the product of their summaries.

    The two streams exchange keys and values as in ViLBERT (Lu et al. 2019, arXiv:1908.02265), without its pretraining.
    """

    def __init__(
        self, image_width: int, text_width: int, answers: int, width: int = 256, depth: int = 2, heads: int = 4,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.image_in, self.text_in = nn.Linear(image_width, width), nn.Linear(text_width, width)
        self.image_reads = nn.ModuleList(Reading(width, heads, dropout) for _ in range(depth))
        self.text_reads = nn.ModuleList(Reading(width, heads, dropout) for _ in range(depth))
        self.image_pool, self.text_pool = nn.Linear(width, 1), nn.Linear(width, 1)
        self.answer = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(2 * width, answers),
        )  # fmt: skip

    def forward(
        self, image: Float[Tensor, "b n di"], words: Float[Tensor, "b w dt"], mask: Bool[Tensor, "b w"]
    ) -> Float[Tensor, "b v"]:
        """mask: True where a word is real; every question has one."""
        v = self.image_in(F.layer_norm(image, image.shape[-1:]))
        t = self.text_in(F.layer_norm(words, words.shape[-1:]))
        for image_reads, text_reads in zip(self.image_reads, self.text_reads, strict=True):
            v, t = image_reads(v, t, mask), text_reads(t, v, None)
        return self.answer(pool(v, self.image_pool(v), None) * pool(t, self.text_pool(t), mask))


class Reading(nn.Module):
    """One stream attends to the other, then feeds forward; both with a residual and a norm before."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.other_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, FEED * width), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(FEED * width, width),
        )  # fmt: skip

    def forward(
        self, own: Float[Tensor, "b n d"], other: Float[Tensor, "b m d"], mask: Bool[Tensor, "b m"] | None
    ) -> Float[Tensor, "b n d"]:
        hidden = None if mask is None else ~mask
        keys = self.other_norm(other)
        own = own + self.attend(self.norm(own), keys, keys, key_padding_mask=hidden, need_weights=False)[0]
        return own + self.feed(own)


def pool(
    tokens: Float[Tensor, "b n d"], weight: Float[Tensor, "b n 1"], mask: Bool[Tensor, "b n"] | None
) -> Float[Tensor, "b d"]:
    """Mean of the real tokens under the softmax of `weight`."""
    logits = weight[..., 0] if mask is None else weight[..., 0].masked_fill(~mask, float("-inf"))
    return torch.einsum("bn,bnd->bd", logits.softmax(1), tokens)
