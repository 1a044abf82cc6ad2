"""L_task on captioned images: a small decoder on the student's visual tokens, which learns with the image tower."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from cmapkd.core.tree import move
from cmapkd.core.types import IMAGE_LEVELS, Batch
from cmapkd.data.samples import Samples
from cmapkd.tasks.captioning.decoder import caption_cross_entropy, teacher_forcing, text_decoder
from cmapkd.tasks.captioning.probe import (
    Settings,
    build_captioner,
    caption_images,
    caption_tokens,
    require_captions,
    results_of,
    score_captions,
)
from cmapkd.tasks.frozen_probe import Fitting
from cmapkd.tasks.headed import Headed, captioning_words, headed_captioning
from cmapkd.tasks.task_loss import Plan, task_loader
from cmapkd.towers.dual import Tower


def check_captions(train: Samples, val: Samples | None) -> None:
    """Raise DataError for images that nobody described."""
    for samples in (train, val):
        if samples is not None:
            require_captions(samples)


class Captioning:
    """An epoch shows every image once, with the next of its captions."""

    def __init__(self, plan: Plan[Samples], student: Tower) -> None:
        self.plan, self.loader = plan, task_loader(plan, plan.train, student, whole=True)
        self.batch = self.loader.batch
        text_decoder(student.tokenizer)  # a tokenizer whose captions cannot be read back is told before the training
        self.settings = Settings(width=plan.task.width or Settings.width, seed=plan.seed)
        self.settings = replace(self.settings, fitting=Fitting(batch=plan.scoring))
        lexicon, self.tokens = caption_tokens(student, plan.train, self.settings.longest)
        self.module = build_captioner(student, lexicon, self.tokens.shape[1], self.settings)
        self.level = IMAGE_LEVELS.index(self.settings.extraction.level)
        self.says = f"{plan.train.n_captions} captions of {len(plan.train)} images, {lexicon.size} output tokens"

    @property
    def unreadable(self) -> int:
        return len(self.loader.ledger.quarantined)

    def outputs(self, student: Tower, batch: Batch) -> tuple[Tensor, ...]:
        images = student.normalise(move(batch, student.device).student.images)
        visual = student.image.levels(images).levels[self.level]
        inputs, _ = teacher_forcing(self.tokens[batch.captions].long())
        return (self.module(visual, inputs.to(student.device)),)

    def loss(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        _, labels = teacher_forcing(self.tokens[batch.captions].long())
        return caption_cross_entropy(outputs[0], labels.to(outputs[0].device), self.settings.smoothing)

    def result(self, student: Tower) -> Headed:
        val = self.plan.val
        if val is None:
            return Headed(self.module, words=captioning_words(self.module))
        captions = caption_images(student, self.module, val, self.settings)
        protocol = f"decoder on {self.settings.extraction.level}, trained with the student"
        notes = (f"trained on {self.says}", f"beam {self.settings.beams}")
        score = score_captions(captions, val, protocol, None, self.settings.java, notes)
        return headed_captioning(self.module, score, results_of(captions, val.ids))
