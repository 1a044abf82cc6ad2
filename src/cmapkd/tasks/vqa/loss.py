"""The VQA task loss: a head on the student's embeddings or tokens, trained together with both towers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cmapkd.core.errors import DataError
from cmapkd.core.tree import move
from cmapkd.core.types import IMAGE_LEVELS, Batch
from cmapkd.data.gathering import clean
from cmapkd.data.questions import Questions
from cmapkd.data.samples import Samples
from cmapkd.tasks.frozen_probe import Fitting
from cmapkd.tasks.task_loss import Plan, ReadByLoader
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.tasks.vqa.accuracy import earned
from cmapkd.tasks.vqa.features import question_tokens
from cmapkd.tasks.vqa.head import training_answers
from cmapkd.tasks.vqa.probe import Settings, build_head, score_head
from cmapkd.towers.dual import DualEncoder


class VqaLoss(ReadByLoader):
    """An epoch shows every image once, with the next of its questions; those without a known answer are left out."""

    def __init__(self, plan: Plan[Questions], student: DualEncoder) -> None:
        task = plan.task
        settings = Settings(head=task.head, answers=task.answers, width=task.width or Settings.width, seed=plan.seed)
        self.settings = replace(settings, fitting=Fitting(batch=plan.scoring))
        self.answers = training_answers([earned(truths) for truths in plan.train.answers], task.answers)
        images, self.question = by_image(plan.train, self.answers.known.tolist())
        super().__init__(plan, images, student, whole=True)
        self.module = build_head(student, len(self.answers.vocabulary), self.settings)
        self.level = IMAGE_LEVELS.index(self.settings.extraction.level)
        self.says = (
            f"{len(self.question)} questions on {len(images)} images, {len(self.answers.vocabulary)} answers, "
            f"{task.head} head"
        )

    def outputs(self, student: DualEncoder, batch: Batch) -> tuple[Tensor, ...]:
        inputs = move(batch, student.device).student
        if self.settings.head == "fusion":
            final = student.final(inputs)
            return (self.module(final.image, final.text),)
        image = student.image.levels(student.normalise(inputs.images)).levels[self.level]
        return (self.module(image, *question_tokens(student, inputs.ids, inputs.words)),)

    def loss(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        return self.answers.loss(outputs[0], self.question[batch.captions].tolist())

    def result(self, student: DualEncoder) -> TrainedHead:
        vocabulary, val = self.answers.vocabulary, self.plan.val
        if val is None:
            return TrainedHead(self.module, words=vocabulary.words)
        protocol = f"closed-set {self.settings.head} head trained with the student"
        notes = (f"trained on {self.says}",)
        return score_head(student, self.module, vocabulary, val, self.settings, protocol, notes)


def by_image(questions: Questions, known: list[bool]) -> tuple[Samples, Tensor]:
    """(one sample per image with its known questions as captions, int64 [captions] the question of each caption)."""
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
