"""The captioning task loss: a small decoder on the student's visual tokens, trained with the image tower."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from cmapkd.core.tree import move
from cmapkd.core.types import IMAGE_LEVELS, Batch
from cmapkd.data.samples import Samples
from cmapkd.tasks.captioning.decoder import caption_loss, next_token_logits, text_decoder
from cmapkd.tasks.captioning.probe import Settings, build_captioner, caption_tokens, score_captioner
from cmapkd.tasks.frozen_probe import Fitting
from cmapkd.tasks.task_loss import Plan, ReadByLoader
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.towers.dual import DualEncoder


class CaptioningLoss(ReadByLoader):
    """An epoch shows every image once, with the next of its captions."""

    def __init__(self, plan: Plan[Samples], student: DualEncoder) -> None:
        super().__init__(plan, plan.train, student, whole=True)
        text_decoder(student.tokenizer)  # fail before the training if the tokenizer cannot turn tokens into text
        settings = Settings(width=plan.task.width or Settings.width, seed=plan.seed)
        self.settings = replace(settings, fitting=Fitting(batch=plan.scoring))
        lexicon, self.tokens = caption_tokens(student, plan.train, self.settings.longest)
        self.module = build_captioner(student, lexicon, self.tokens.shape[1], self.settings)
        self.level = IMAGE_LEVELS.index(self.settings.extraction.level)
        self.says = f"{plan.train.n_captions} captions of {len(plan.train)} images, {lexicon.size} output tokens"

    def outputs(self, student: DualEncoder, batch: Batch) -> tuple[Tensor, ...]:
        images = student.normalise(move(batch, student.device).student.images)
        visual = student.image.levels(images).levels[self.level]
        return (next_token_logits(self.module, visual, self.tokens[batch.captions]),)

    def loss(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        return caption_loss(outputs[0], self.tokens[batch.captions], self.settings.smoothing)

    def result(self, student: DualEncoder) -> TrainedHead:
        if self.plan.val is None:
            return TrainedHead(self.module, words=self.module.words)
        protocol = f"decoder on {self.settings.extraction.level}, trained with the student"
        notes = (f"trained on {self.says}", f"beam {self.settings.beams}")
        return score_captioner(student, self.module, self.plan.val, self.settings, protocol, notes)
