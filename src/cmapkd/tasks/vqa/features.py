"""Features of images and questions by a frozen tower, computed once for all the training of a VQA head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.questions import Questions
from cmapkd.tasks.encoder import spans
from cmapkd.tasks.frozen_features import FINAL, Extraction, ImageFeatures, image_features, require_room
from cmapkd.towers.dual import DualEncoder, evaluating


@dataclass(frozen=True)
class QuestionFeatures:
    """Inputs of a head for a set of questions; `of` gives a batch by question index."""

    image: ImageFeatures
    text: tuple[Tensor, ...]
    place: Tensor

    def of(self, which: Tensor, device: torch.device) -> tuple[Tensor, ...]:
        rows = self.place[which]
        text = (x[rows].to(device) for x in self.text)
        return self.image.of(which, device), *(x.float() if x.is_floating_point() else x for x in text)


def question_features(
    tower: DualEncoder, questions: Questions, tokens: bool, extraction: Extraction
) -> QuestionFeatures:
    """Features of the distinct images and the distinct questions, float16, by question.

    tokens: visual and word tokens instead of the final embeddings.
    """
    if len(questions.paths) != len(questions.ids):
        raise DataError(f"{questions.name}: these questions were read without their images; say where the images are")
    if not tokens:
        extraction = replace(extraction, level=FINAL)
    image = image_features(tower, questions.paths, extraction, questions.name)
    distinct = {text: place for place, text in enumerate(dict.fromkeys(questions.questions))}
    if tokens:
        require_words(tower)
        size = len(distinct) * (tower.text.words + 1) * tower.shape.text_widths[0] * 2
        require_room(size + image.rows.nbytes, extraction.ram_mb, f"{questions.name}'s images and questions")
    text = text_features(tower, list(distinct), tokens, extraction.batch)
    return QuestionFeatures(image, text, torch.tensor([distinct[text] for text in questions.questions]))


def require_words(tower: DualEncoder) -> None:
    """Raise UsageError for a model without the word level L1, which head 'coattention' reads."""
    if "L1" not in tower.shape.levels:
        raise UsageError(
            f"model {tower.name}: its text tower ({type(tower.text.native).__name__}) gives no words (level L1), which head "
            "'coattention' reads; use head fusion, or a model whose tokens are known by word"
        )


@torch.no_grad()
def text_features(tower: DualEncoder, texts: Sequence[str], tokens: bool, batch: int) -> tuple[Tensor, ...]:
    """(final [n, E],), or with `tokens` (words and end token [n, W + 1, D], mask [n, W + 1]); float16, layer-normed."""
    chunks: list[tuple[Tensor, ...]] = []
    with evaluating(tower):
        for span in spans(len(texts), batch):
            ids, words = (x.to(tower.device) for x in tower.tokenizer([texts[i] for i in span]))
            if not tokens:
                chunks.append((_half(tower.text.encode(ids)),))
                continue
            read, real = question_tokens(tower, ids, words)
            chunks.append((_half(read), real.cpu()))
    return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))


def question_tokens(tower: DualEncoder, ids: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """(words and the end token [B, W + 1, D], mask of the real ones [B, W + 1]) of tokenised questions.

    The end token has read the whole question, also its words beyond L1's length, and is never absent.
    """
    found = tower.text.levels(ids, words)
    mask = found.masks[0]
    assert mask is not None, "words are padded, so L1 has a mask"
    return torch.cat([found.levels[0], found.levels[3]], 1), torch.cat([mask, mask.new_ones(len(ids), 1)], 1)


def _half(x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:]).to("cpu", torch.float16)
