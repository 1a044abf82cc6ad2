"""The frozen probe of VQA: train a head on a frozen tower's features, answer other questions, score the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from cmapkd.config.suite import HeadData
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.questions import Questions
from cmapkd.data.stored import stored_length
from cmapkd.tasks.encoder import Encoder, spans
from cmapkd.tasks.frozen_features import FINAL, Extraction
from cmapkd.tasks.frozen_probe import Fitting, drawn, fitting_of, require_positive, train_probe
from cmapkd.tasks.score import Score
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.tasks.vqa.accuracy import answer_accuracy, check_ids, earned, vqa_accuracy
from cmapkd.tasks.vqa.features import question_features, require_words
from cmapkd.tasks.vqa.head import CoAttentionHead, FusionHead, Vocabulary, training_answers
from cmapkd.tasks.vqa.results import results_of
from cmapkd.towers.dual import DualEncoder, evaluating


@dataclass(frozen=True)
class Settings:
    """How a VQA head is trained. head: an MLP over the final embeddings, or tokens that attend to each other.

    answers: size of the vocabulary. width, dropout: of the head. extraction.level: the tokens of `coattention`;
    `fusion` always reads the final embedding.
    """

    head: str = "fusion"
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

    @property
    def tokens(self) -> bool:
        """Whether the head reads tokens instead of the final embeddings."""
        return self.head == "coattention"


def vqa_probe(
    tower: DualEncoder, train: Questions, val: Questions, given: HeadData, judge: Encoder | None
) -> TrainedHead:
    """`train-head vqa`: the settings of the command line or of a suite, all others at their defaults."""
    width, head = given.width or Settings.width, given.head or Settings.head
    return train_vqa(tower, train, val, Settings(head, width=width, seed=given.seed, fitting=fitting_of(given)))


def train_vqa(tower: DualEncoder, train: Questions, val: Questions, settings: Settings | None = None) -> TrainedHead:
    """Train a head on `train` on the tower's device, score it on `val`; the tower is not changed.

    On a CPU the same seed gives the same floats. Raises DataError for data that cannot be trained on or scored,
    NonFiniteError when the loss is not finite.
    """
    settings = settings or Settings()
    for questions in (train, val):
        require_answers(questions)
    answers = training_answers([earned(truths) for truths in train.answers], settings.answers)
    features = question_features(tower, train, settings.tokens, settings.extraction)
    pool = (answers.known & (features.image.place >= 0)).nonzero()[:, 0]
    if not len(pool):
        raise DataError(f"{train.name}: no question with a readable image has an answer to learn")
    steps = settings.fitting.steps(len(pool))

    def loss_of(head: nn.Module, step: int) -> Tensor:
        which = pool[drawn(step, settings.fitting.batch, len(pool), settings.seed)]
        return answers.loss(head(*features.of(which, tower.device)), which.tolist())

    head, losses = train_probe(
        lambda: build_head(tower, len(answers.vocabulary), settings).to(tower.device),
        loss_of, steps, settings.fitting, settings.seed, "train vqa head",
    )  # fmt: skip
    notes = [f"{len(train.ids)} training questions", f"{steps} steps", f"seed {settings.seed}"]
    if unknown := int((~answers.known).sum()):
        notes.append(f"{unknown} training questions without an answer of the vocabulary left out")
    if features.image.bad:
        notes.append(f"{len(features.image.bad)} unreadable training images passed over")
    protocol = f"closed-set {settings.head} head on the frozen tower"
    return replace(score_head(tower, head, answers.vocabulary, val, settings, protocol, notes), losses=losses)


def score_head(
    tower: DualEncoder, head: nn.Module, vocabulary: Vocabulary, val: Questions, settings: Settings, protocol: str,
    notes: Sequence[str],
) -> TrainedHead:  # fmt: skip
    """The head with its answers to the questions of `val` and their accuracy; every image must be readable."""
    answers = answer_questions(tower, head, vocabulary, val, settings)
    metrics = {**vqa_accuracy(answers, val).metrics, "ceiling": ceiling(vocabulary, val)}
    score = Score(
        "vqa", protocol, metrics, val.name, len(set(val.paths)), 0, fingerprint(val),
        notes=(f"{len(val.ids)} questions", f"{len(vocabulary)} answers", *notes, *val.notes),
    )  # fmt: skip
    return TrainedHead(head, score, results_of(answers), vocabulary.words)


def answer_questions(
    tower: DualEncoder, head: nn.Module, vocabulary: Vocabulary, questions: Questions, settings: Settings
) -> dict[int, str]:
    """The most probable answer to every question, by its id; true answers are not used. Every image must be readable."""
    check_ids(questions.ids, questions.ids, questions.name)
    features = question_features(tower, questions, settings.tokens, replace(settings.extraction, bad_budget=0.0))
    found: dict[int, str] = {}
    with evaluating(head), torch.inference_mode():
        for span in spans(len(questions.ids), settings.fitting.batch):
            best = head(*features.of(torch.tensor(list(span)), tower.device)).argmax(1).tolist()
            found |= {questions.ids[i]: vocabulary.answers[v] for i, v in zip(span, best, strict=True)}
    return found


def build_head(tower: DualEncoder, answers: int, settings: Settings) -> nn.Module:
    """An untrained head for the features that `question_features` computes with the same settings."""
    if settings.head == "fusion":
        return FusionHead(tower.shape.embedding, answers, settings.width, settings.dropout)
    require_words(tower)
    level = int(settings.extraction.level[1]) - 2
    return CoAttentionHead(
        tower.shape.image_widths[level], tower.shape.text_widths[0], answers, settings.width, dropout=settings.dropout
    )


def require_answers(questions: Questions) -> None:
    """Raise DataError for questions without answers, or ids that occur twice."""
    check_ids(questions.ids, questions.ids, questions.name)
    bare = [key for key, truths in zip(questions.ids, questions.answers, strict=True) if not truths]
    if bare or not questions.ids:
        raise DataError(
            f"{questions.name}: {len(bare) or 'all'} questions have no answers; train and score on a split that has them"
        )


def ceiling(vocabulary: Vocabulary, questions: Questions) -> float:
    """The accuracy of always choosing the best answer of the vocabulary."""
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
