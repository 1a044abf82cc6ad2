"""The loader of the training data, with the caption noise that the config asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cmapkd.config.schema import CorruptConfig, DataConfig
from cmapkd.core.types import Batch, Inputs
from cmapkd.data.loader import Bad, Loader
from cmapkd.data.noise import Swap
from cmapkd.data.samples import Samples
from cmapkd.data.tokens import CaptionTokens
from cmapkd.data.workers.pool import Decode


class NoisyLoader(Loader):
    """Batches in which affected samples carry the caption of another sample, for student and teacher alike."""

    def __init__(self, swap: Swap, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.swap = swap

    def make(self, step: int, decode: Decode) -> tuple[Batch | None, Bad]:
        """As Loader.make, with noisy captions."""
        batch, bad = super().make(step, decode)
        if batch is None:
            return None, bad
        captions = self.swap.mix(batch.samples, batch.captions, self.swap.captions(batch.samples, batch.captions))

        def with_captions(inputs: Inputs, tokens: CaptionTokens) -> Inputs:
            return Inputs(inputs.images, *tokens(captions))

        student, teacher = with_captions(batch.student, self.tokens), None
        if batch.teacher is not None and self.teacher_tokens is not None:
            teacher = with_captions(batch.teacher, self.teacher_tokens)
        return replace(batch, captions=captions, student=student, teacher=teacher), bad


def open_loader(samples: Samples, data: DataConfig, corrupt: CorruptConfig, *args: Any, **options: Any) -> Loader:
    """A Loader, or a NoisyLoader where corrupt.captions is above 0; further arguments as Loader takes them."""
    if corrupt.captions == 0:
        return Loader(samples, data, *args, **options)
    return NoisyLoader(Swap(samples, corrupt.captions), samples, data, *args, **options)
