"""A planted fault for experiments on policies: one level whose targets belong to other samples (see data/noise.py)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from cmapkd.config.schema import Config
from cmapkd.core.errors import UsageError
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, Batch, Pair, Teaching
from cmapkd.data.noise import Swap
from cmapkd.data.samples import Samples
from cmapkd.teacher.protocol import Teacher


class CorruptedTeacher:
    """A cached teacher with one wrong level: its targets and its row of the bridge are those of other samples."""

    needs_inputs = False

    def __init__(self, teacher: Teacher, level: str, swap: Swap) -> None:
        self.teacher, self.level, self.swap = teacher, level, swap
        self.modality, self.row = ("image" if level in IMAGE_LEVELS else "text"), LEVELS.index(level) % 4

    def teach(self, batch: Batch, levels: Iterable[str], bridge: bool = True) -> Teaching:
        own, swap, samples, name = self.teacher.teach(batch, levels, bridge), self.swap, batch.samples, self.level
        wanted = (name,) if name in own.levels else ()
        if not wanted and not bridge:
            return own
        captions = swap.captions(samples, batch.captions)
        other = replace(batch, samples=swap.other.to(samples.device)[samples], captions=captions)
        strange = self.teacher.teach(other, wanted, bridge)
        levels, masks = (
            {**kept, **{k: swap.mix(samples, kept[k], new[k]) for k in new}}
            for kept, new in ((own.levels, strange.levels), (own.masks, strange.masks))
        )
        rows, read = self._bridge(samples, own, strange) if bridge else own.bridge, own.read + strange.read
        return replace(own, levels=levels, masks=masks, bridge=rows, read=read)

    def _bridge(self, samples: Tensor, own: Teaching, strange: Teaching) -> Pair[Tensor]:
        mine, new = (getattr(teaching.bridge, self.modality) for teaching in (own, strange))
        rows = mine.clone()
        rows[:, self.row] = self.swap.mix(samples, mine[:, self.row], new[:, self.row])
        return replace(own.bridge, **{self.modality: rows})


def corrupted(teacher: Teacher, config: Config, samples: Samples) -> Teacher:
    """The teacher with the config's faulty level, if any. Raises UsageError without a cache that can be read by sample."""
    fault = config.corrupt
    if fault.level is None:
        return teacher
    if config.cache.path is None or config.cache.tokens is not None:
        raise UsageError(
            "corrupt.level: reads other samples' targets from the cache, on grids; set cache.path, and no cache.tokens"
        )
    return CorruptedTeacher(teacher, fault.level, Swap(samples, fault.share))
