"""VQA: train a head on a frozen tower's features, answer other questions, count the official accuracy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.questions import Questions
from cmapkd.data.stored import stored_length
from cmapkd.tasks.encoder import spans
from cmapkd.tasks.frozen_probe import (
    FINAL,
    Extraction,
    Fitting,
    ImageFeatures,
    drawn,
    fit,
    image_features,
    require_positive,
    require_room,
)
from cmapkd.tasks.score import Score
from cmapkd.tasks.vqa.accuracy import Accuracy, answer_accuracy, check_ids, earned, vqa_accuracy
from cmapkd.tasks.vqa.head import CoAttentionHead, FusionHead, Vocabulary, build_vocabulary, soft_bce
from cmapkd.towers.dual import Tower, evaluating
from cmapkd.towers.text_final import require_text_levels


@dataclass(frozen=True)
class Settings:
    """How a VQA head is trained. head: an MLP over the final embeddings, or tokens that attend to each other.

    answers: size of the vocabulary. width, dropout: of the head. extraction.level: the tokens of `coattention`;
    `fusion` reads the final embedding whatever it says.
    """

    head: Literal["fusion", "coattention"] = "fusion"
    answers: int = 3129
    width: int = 512
    dropout: float = 0.2
    seed: int = 0
    fitting: Fitting = field(default_factory=Fitting)
    extraction: Extraction = field(default_factory=lambda: Extraction(level="P4", bad_budget=0.001))

    def __post_init__(self) -> None:
        if self.head not in ("fusion", "coattention"):
            raise UsageError(f"vqa: there is no head '{self.head}'; there are fusion and coattention")
        if self.answers < 1 or self.width < 4 or self.width % 4:
            raise UsageError(f"vqa: answers {self.answers} must be at least 1, width {self.width} a multiple of 4")
        if self.head == "coattention" and self.extraction.level == FINAL:
            raise UsageError("vqa: the coattention head reads tokens; give extraction.level P2, P3, P4 or P5")
        require_positive("vqa", self.fitting)


@dataclass(frozen=True)
class VqaResult:
    """A trained head, its figures, the answers they were counted from, and the loss of every step."""

    head: nn.Module
    vocabulary: Vocabulary
    score: Score
    accuracy: Accuracy
    answers: dict[int, str]
    losses: list[float]


@dataclass(frozen=True)
class QuestionFeatures:
    """What a head reads of a set's images and questions; `of` gives a batch by question index."""

    image: ImageFeatures
    text: tuple[Tensor, ...]
    place: Tensor

    def of(self, which: Tensor, device: torch.device) -> tuple[Tensor, ...]:
        rows = self.place[which]
        text = (x[rows].to(device) for x in self.text)
        return self.image.of(which, device), *(x.float() if x.is_floating_point() else x for x in text)


def train_vqa(tower: Tower, train: Questions, val: Questions, settings: Settings | None = None) -> VqaResult:
    """Train a head on `train` where the tower stands (CPU or GPU), score it on `val`; the tower stays as it is.

    On a CPU the same seed gives the same floats. Raises DataError for data that cannot be learnt from or scored,
    NonFiniteError when the loss is no number.
    """
    settings = settings or Settings()
    for questions in (train, val):
        require_answers(questions)
    scores = [earned(truths) for truths in train.answers]
    vocabulary = build_vocabulary(scores, settings.answers)
    known = torch.tensor([any(answer in vocabulary.index for answer in score) for score in scores])
    features = question_features(tower, train, settings, settings.extraction)
    pool = (known & (features.image.place >= 0)).nonzero()[:, 0]
    if not len(pool):
        raise DataError(f"{train.name}: no question with a readable image has an answer to learn")
    steps = settings.fitting.steps(len(pool))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = build_head(tower, len(vocabulary), settings).to(tower.device)

        def loss_of(step: int) -> Tensor:
            which = pool[drawn(step, settings.fitting.batch, len(pool), settings.seed)]
            targets = vocabulary.targets([scores[i] for i in which.tolist()]).to(tower.device)
            return soft_bce(head(*features.of(which, tower.device)), targets)

        losses = fit(head, loss_of, steps, settings.fitting, "train vqa head")
    notes = [f"{len(train.ids)} training questions", f"{steps} steps", f"seed {settings.seed}"]
    if unknown := int((~known).sum()):
        notes.append(f"{unknown} training questions without an answer of the vocabulary left out")
    if features.image.bad:
        notes.append(f"{len(features.image.bad)} unreadable training images passed over")
    protocol = f"closed-set {settings.head} head on the frozen tower"
    return VqaResult(head, vocabulary, *score_head(tower, head, vocabulary, val, settings, protocol, notes), losses)


def score_head(
    tower: Tower, head: nn.Module, vocabulary: Vocabulary, val: Questions, settings: Settings, protocol: str,
    notes: Sequence[str],
) -> tuple[Score, Accuracy, dict[int, str]]:  # fmt: skip
    """What a head answers on `val` and the figures of it; every image has to be there."""
    answers = answer_questions(tower, head, vocabulary, val, settings)
    accuracy = vqa_accuracy(answers, val)
    score = Score(
        "vqa", protocol, {**accuracy.metrics, "ceiling": ceiling(vocabulary, val)}, val.name, len(set(val.paths)), 0,
        fingerprint(val), notes=(f"{len(val.ids)} questions", f"{len(vocabulary)} answers", *notes, *val.notes),
    )  # fmt: skip
    return score, accuracy, answers


def answer_questions(
    tower: Tower, head: nn.Module, vocabulary: Vocabulary, questions: Questions, settings: Settings
) -> dict[int, str]:
    """The likeliest answer to every question, by its id; the true ones are not looked at. Every image has to be there."""
    check_ids(questions.ids, questions.ids, questions.name)
    features = question_features(tower, questions, settings, replace(settings.extraction, bad_budget=0.0))
    found: dict[int, str] = {}
    with evaluating(head), torch.inference_mode():
        for span in spans(len(questions.ids), settings.fitting.batch):
            best = head(*features.of(torch.tensor(list(span)), tower.device)).argmax(1).tolist()
            found |= {questions.ids[i]: vocabulary.answers[v] for i, v in zip(span, best, strict=True)}
    return found


def build_head(tower: Tower, answers: int, settings: Settings) -> nn.Module:
    """An untrained head for what `question_features` gives with the same settings."""
    if settings.head == "fusion":
        return FusionHead(tower.shape.embedding, answers, settings.width, settings.dropout)
    require_text_levels(tower, "model", [f"head '{settings.head}'"])
    level = int(settings.extraction.level[1]) - 2
    return CoAttentionHead(
        tower.shape.image_widths[level], tower.shape.text_widths[0], answers, settings.width, dropout=settings.dropout
    )


def question_features(
    tower: Tower, questions: Questions, settings: Settings, extraction: Extraction
) -> QuestionFeatures:
    """Features of the distinct images and the distinct questions, float16, by question."""
    if len(questions.paths) != len(questions.ids):
        raise DataError(f"{questions.name}: these questions were read without their images; say where the images are")
    tokens = settings.head == "coattention"
    if not tokens:
        extraction = replace(extraction, level=FINAL)
    image = image_features(tower, questions.paths, extraction, questions.name)
    distinct = {text: place for place, text in enumerate(dict.fromkeys(questions.questions))}
    if tokens:
        require_text_levels(tower, "model", [f"head '{settings.head}'"])
        size = len(distinct) * (tower.text.words + 1) * tower.shape.text_widths[0] * 2
        require_room(size + image.rows.nbytes, extraction.ram_mb, f"{questions.name}'s images and questions")
    text = text_features(tower, list(distinct), tokens, extraction.batch)
    return QuestionFeatures(image, text, torch.tensor([distinct[text] for text in questions.questions]))


@torch.no_grad()
def text_features(tower: Tower, texts: Sequence[str], tokens: bool, batch: int) -> tuple[Tensor, ...]:
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


def question_tokens(tower: Tower, ids: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """(words and the end token [B, W + 1, D], which of them are real [B, W + 1]) of tokenised questions.

    The end token has read the whole question, also its words beyond L1's length, and is never absent.
    """
    found = tower.text.levels(ids, words)
    mask = found.masks[0]
    assert mask is not None, "words are padded, so L1 has a mask"
    return torch.cat([found.levels[0], found.levels[3]], 1), torch.cat([mask, mask.new_ones(len(ids), 1)], 1)


def require_answers(questions: Questions) -> None:
    """Raise DataError for questions that cannot be learnt from or scored."""
    check_ids(questions.ids, questions.ids, questions.name)
    bare = [key for key, truths in zip(questions.ids, questions.answers, strict=True) if not truths]
    if bare or not questions.ids:
        raise DataError(
            f"{questions.name}: {len(bare) or 'all'} questions have no answers; train and score on a split that has them"
        )


def ceiling(vocabulary: Vocabulary, questions: Questions) -> float:
    """The accuracy of a head that always takes the best answer of the vocabulary."""
    best = []
    for truths in questions.answers:
        inside = [answer for answer in earned(truths) if answer in vocabulary.index]
        best.append(max((answer_accuracy(answer, truths) for answer in inside), default=0.0))
    return sum(best) / len(best)


def fingerprint(questions: Questions) -> str:
    """SHA-256 over ids, questions, answers and the images' sizes in bytes."""
    digest = hashlib.sha256()
    sizes = {path: stored_length(path) for path in set(questions.paths)}
    rows = zip(questions.ids, questions.questions, questions.answers, questions.paths, strict=True)
    for key, text, answers, path in rows:
        row = "\x1f".join((str(key), text, str(sizes[path]), *answers, "\x1e"))
        digest.update(row.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _half(x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:]).to("cpu", torch.float16)
