"""A planted fault for experiments on policies: one level whose targets belong to other samples (see data/noise.py)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from cmapkd.config.schema import CorruptConfig
from cmapkd.config.sources import CacheConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, Batch, Needs, Pair, TeacherOutputs, Tokens
from cmapkd.data.noise import Swap
from cmapkd.data.samples import Samples
from cmapkd.teacher.protocol import Teacher


class CorruptedTeacher:
    """A cached teacher with one wrong level: its targets and its row of the bridge are those of other samples."""

    needs_inputs = False

    def __init__(self, teacher: Teacher, level: str, swap: Swap) -> None:
        self.teacher, self.level, self.swap = teacher, level, swap
        self.modality, self.row = ("image" if level in IMAGE_LEVELS else "text"), LEVELS.index(level) % 4

    def outputs(self, batch: Batch, needs: Needs) -> TeacherOutputs:
        own, swap, samples, name = self.teacher.outputs(batch, needs), self.swap, batch.samples, self.level
        if name not in own.levels and own.bridge is None:
            return own
        captions = swap.captions(samples, batch.captions)
        other = replace(batch, samples=swap.partners(samples), captions=captions)
        wanted = tuple(level for level in needs.levels if level == name)
        partner = self.teacher.outputs(other, replace(needs, levels=wanted))
        levels = {**own.levels, **{k: self._mixed(samples, own.levels[k], partner.levels[k]) for k in wanted}}
        return replace(own, levels=levels, bridge=self._bridge(samples, own, partner), read=own.read + partner.read)

    def _mixed(self, samples: Tensor, own: Tokens, partner: Tokens) -> Tokens:
        mask = own.mask
        if mask is not None and partner.mask is not None:
            mask = self.swap.mix(samples, mask, partner.mask)
        return replace(own, values=self.swap.mix(samples, own.values, partner.values), mask=mask)

    def _bridge(self, samples: Tensor, own: TeacherOutputs, partner: TeacherOutputs) -> Pair[Tensor] | None:
        if own.bridge is None:
            return None
        mine, new = (getattr(given.bridge, self.modality) for given in (own, partner))
        rows = mine.clone()
        rows[:, self.row] = self.swap.mix(samples, mine[:, self.row], new[:, self.row])
        return replace(own.bridge, **{self.modality: rows})


def check_fault(fault: CorruptConfig, cache: CacheConfig) -> None:
    """Raise UsageError for a faulty level without a cache that can be read by sample."""
    if fault.level is not None and (cache.path is None or cache.tokens is not None):
        raise UsageError(
            "corrupt.level: reads other samples' targets from the cache, on grids; set cache.path, and no cache.tokens"
        )


def corrupted(teacher: Teacher, fault: CorruptConfig, samples: Samples) -> Teacher:
    """The teacher with the config's faulty level, if any."""
    return teacher if fault.level is None else CorruptedTeacher(teacher, fault.level, Swap(samples, fault.share))
