"""Worlds with a planted fault, to see what a policy does: a level whose targets, or captions, are those of other samples.

Who gets whose is fixed: a keyed derangement of the samples, the same in every run, epoch and process.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cmapkd.config.schema import Config
from cmapkd.core.errors import UsageError
from cmapkd.core.order import keyed, permute
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, Batch, Inputs, Needs, Pair, TeacherOutputs, Tokens
from cmapkd.data.loader import Loader
from cmapkd.data.samples import Samples
from cmapkd.teacher.protocol import Teacher

SEED, WHOSE, WHO = 31, 0, 1


def strangers(n: int) -> Tensor:
    """int64 [n]: another sample for each of n ≥ 2, every one exactly once."""
    order = permute(np.arange(n), n, SEED, WHOSE)
    out = np.empty(n, dtype=np.int64)
    out[order] = np.roll(order, 1)
    return torch.from_numpy(out)


def struck(n: int, share: float) -> Tensor:
    """bool [n]: which samples the fault is in, about `share` of them; a larger share strikes the same ones and more."""
    return torch.tensor([keyed(SEED, WHO, i) < share * 2**64 for i in range(n)])


class Swap:
    """samples and captions of a batch to those of strangers, where struck."""

    def __init__(self, samples: Samples, share: float) -> None:
        self.other, self.hit = strangers(len(samples)), struck(len(samples), share)
        self.first = torch.from_numpy(samples.caption_offsets)

    def captions(self, samples: Tensor, captions: Tensor) -> Tensor:
        """int64 [B]: the caption of the stranger at the same place, in turn."""
        first, other = self.first.to(samples.device), self.other.to(samples.device)[samples]
        return first[other] + (captions - first[samples]) % (first[other + 1] - first[other])

    def mix(self, samples: Tensor, own: Tensor, strange: Tensor) -> Tensor:
        """Rows of `strange` where the sample is struck, else of `own`."""
        hit = self.hit[samples.cpu()].to(own.device)
        return torch.where(hit.view(-1, *(1,) * (own.ndim - 1)), strange, own)


class CorruptedTeacher:
    """A cached teacher whose level k is wrong: its targets and its row of the bridge, and nothing else."""

    needs_inputs = False

    def __init__(self, teacher: Teacher, level: str, swap: Swap) -> None:
        self.teacher, self.level, self.swap = teacher, level, swap
        self.modality, self.row = ("image" if level in IMAGE_LEVELS else "text"), LEVELS.index(level) % 4

    def outputs(self, batch: Batch, needs: Needs) -> TeacherOutputs:
        own, swap, samples, name = self.teacher.outputs(batch, needs), self.swap, batch.samples, self.level
        if name not in own.levels and own.bridge is None:
            return own
        captions = swap.captions(samples, batch.captions)
        other = replace(batch, samples=swap.other.to(samples.device)[samples], captions=captions)
        wanted = tuple(level for level in needs.levels if level == name)
        strange = self.teacher.outputs(other, replace(needs, levels=wanted))
        levels = {**own.levels, **{k: self._mixed(samples, own.levels[k], strange.levels[k]) for k in wanted}}
        return replace(own, levels=levels, bridge=self._bridge(samples, own, strange), read=own.read + strange.read)

    def _mixed(self, samples: Tensor, own: Tokens, strange: Tokens) -> Tokens:
        mask = own.mask
        if mask is not None and strange.mask is not None:
            mask = self.swap.mix(samples, mask, strange.mask)
        return replace(own, values=self.swap.mix(samples, own.values, strange.values), mask=mask)

    def _bridge(self, samples: Tensor, own: TeacherOutputs, strange: TeacherOutputs) -> Pair[Tensor] | None:
        if own.bridge is None:
            return None
        mine, new = (getattr(given.bridge, self.modality) for given in (own, strange))
        rows = mine.clone()
        rows[:, self.row] = self.swap.mix(samples, mine[:, self.row], new[:, self.row])
        return replace(own.bridge, **{self.modality: rows})


class NoisyLoader(Loader):
    """Batches in which a struck sample comes with a stranger's caption, for the student and for the teacher."""

    swap: Swap

    def batch(self, step: int) -> Batch:
        batch = super().batch(step)
        captions = self.swap.mix(batch.samples, batch.captions, self.swap.captions(batch.samples, batch.captions))

        def told(inputs: Inputs | None, tokens: tuple[Tensor, Tensor] | None) -> Inputs | None:
            return None if inputs is None or tokens is None else Inputs(inputs.images, *(t[captions] for t in tokens))

        student = told(batch.student, self.tokens)
        assert student is not None
        return replace(batch, captions=captions, student=student, teacher=told(batch.teacher, self.teacher_tokens))


def corrupted(teacher: Teacher, config: Config, samples: Samples) -> Teacher:
    """The teacher with the config's faulty level, or as it is. Raises UsageError where a stranger cannot be read."""
    fault = config.corrupt
    if fault.level is None:
        return teacher
    if config.cache.path is None or config.cache.tokens is not None:
        raise UsageError(
            "corrupt.level: reads other samples' targets from the cache, on grids; set cache.path, and no cache.tokens"
        )
    return CorruptedTeacher(teacher, fault.level, Swap(samples, fault.share))


def open_loader(config: Config, samples: Samples, *rest) -> Loader:  # noqa: ANN002
    """The loader of the training data, with the config's noise in its captions; `rest` as Loader takes it."""
    if config.corrupt.captions == 0:
        return Loader(samples, config.data, *rest)
    loader = NoisyLoader(samples, config.data, *rest)
    loader.swap = Swap(samples, config.corrupt.captions)
    return loader
