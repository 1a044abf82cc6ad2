"""L_task on questions about images: a head on the student's embeddings or tokens, which learns with both towers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cmapkd.core.errors import DataError
from cmapkd.core.tree import move
from cmapkd.core.types import IMAGE_LEVELS, Batch
from cmapkd.data.questions import Questions
from cmapkd.data.samples import Samples, clean
from cmapkd.tasks.frozen_probe import Fitting
from cmapkd.tasks.headed import Headed, headed_vqa, vqa_words
from cmapkd.tasks.task_loss import Plan, task_loader
from cmapkd.tasks.vqa.accuracy import earned
from cmapkd.tasks.vqa.head import build_vocabulary, soft_bce
from cmapkd.tasks.vqa.probe import Settings, build_head, question_tokens, require_answers, score_head
from cmapkd.towers.dual import Tower


def check_questions(train: Questions, val: Questions | None) -> None:
    """Raise DataError for questions that cannot be learnt from or scored."""
    for questions in (train, val):
        if questions is not None:
            require_answers(questions)


class Vqa:
    """An epoch shows every image once, with the next of its questions; those without a known answer are left out."""

    def __init__(self, plan: Plan[Questions], student: Tower) -> None:
        task, questions = plan.task, plan.train
        self.plan = plan
        self.settings = Settings(
            head=task.head, answers=task.answers, width=task.width or Settings.width, seed=plan.seed
        )
        self.settings = replace(self.settings, fitting=Fitting(batch=plan.scoring))
        self.scores = [earned(truths) for truths in questions.answers]
        self.vocabulary = build_vocabulary(self.scores, task.answers)
        known = [any(answer in self.vocabulary.index for answer in score) for score in self.scores]
        images, self.question = by_image(questions, known)
        self.loader = task_loader(plan, images, student, whole=True)
        self.batch = self.loader.batch
        self.module = build_head(student, len(self.vocabulary), self.settings)
        self.level = IMAGE_LEVELS.index(self.settings.extraction.level)
        self.says = (
            f"{len(self.question)} questions on {len(images)} images, {len(self.vocabulary)} answers, {task.head} head"
        )

    @property
    def unreadable(self) -> int:
        return len(self.loader.ledger.quarantined)

    def outputs(self, student: Tower, batch: Batch) -> tuple[Tensor, ...]:
        inputs = move(batch, student.device).student
        if self.settings.head == "fusion":
            final = student.final(inputs)
            return (self.module(final.image, final.text),)
        image = student.image.levels(student.normalise(inputs.images)).levels[self.level]
        return (self.module(image, *question_tokens(student, inputs.ids, inputs.words)),)

    def loss(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        asked = self.question[batch.captions].tolist()
        return soft_bce(outputs[0], self.vocabulary.targets([self.scores[i] for i in asked]).to(outputs[0].device))

    def result(self, student: Tower) -> Headed:
        if self.plan.val is None:
            return Headed(self.module, words=vqa_words(self.vocabulary))
        protocol = f"closed-set {self.settings.head} head trained with the student"
        score, _, answers = score_head(
            student, self.module, self.vocabulary, self.plan.val, self.settings, protocol, (f"trained on {self.says}",)
        )
        return headed_vqa(self.module, self.vocabulary, score, answers)


def by_image(questions: Questions, known: list[bool]) -> tuple[Samples, Tensor]:
    """(one sample an image with its known questions as captions, int64 [captions] which question each caption is)."""
    asked: dict[str, list[int]] = {}
    for i, path in enumerate(questions.paths):
        if known[i] and clean(questions.questions[i]):
            asked.setdefault(str(path), []).append(i)
    if not asked:
        raise DataError(f"{questions.name}: no question with an image has an answer to learn")
    paths = tuple(questions.paths[rows[0]] for rows in asked.values())
    captions = tuple(tuple(clean(questions.questions[i]) for i in rows) for rows in asked.values())
    samples = Samples(questions.name, tuple(asked), paths, captions, notes=questions.notes)
    return samples, torch.tensor([i for rows in asked.values() for i in rows])
