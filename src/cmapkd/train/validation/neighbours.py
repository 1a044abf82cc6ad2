"""Agreement of a student of images alone with its teacher: share of the teacher's nearest neighbours that are the student's too."""

from __future__ import annotations

from functools import cached_property, partial

import torch
from torch import Tensor

from cmapkd.config.schema import Config
from cmapkd.data.loader import read_images
from cmapkd.tasks.encoder import embed_images, spans
from cmapkd.tasks.validation import Validation
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower

COUNTS = (1, 10)
NAMES = tuple(f"neighbours@{k}" for k in COUNTS)
BEST = NAMES[-1]  # the figure by which the best student is kept


class Neighbours:
    """`neighbours@1` and `neighbours@10` of the student on the images of a run's validation data; {} without any.

    teacher: None where it does not run; it is then loaded for the first validation, which keeps its neighbours alone.
    """

    def __init__(
        self, validation: Validation, student: DualEncoder, teacher: DualEncoder | None, config: Config
    ) -> None:
        self.samples, self.batch = next(iter(validation.samples.values()), None), validation.batch
        self.student, self.teacher, self.config = student, teacher, config

    def __call__(self) -> dict[str, float]:
        return {} if self.samples is None else agreement(self._embedded(self.student), self.goal)

    @cached_property
    def goal(self) -> Tensor:
        """The teacher's nearest neighbours of each image."""
        tower = self.teacher
        if tower is None:
            assert self.config.teacher is not None, "a student of images alone has a teacher"
            with torch.random.fork_rng():
                tower = load_tower(self.config.teacher, words=self.config.cache.words).to(self.student.device)
        return nearest(self._embedded(tower), max(COUNTS))

    def _embedded(self, tower: DualEncoder) -> Tensor:
        assert self.samples is not None
        read = partial(read_images, self.samples, size=tower.size)
        return embed_images(tower, read, len(self.samples), self.batch)


def nearest(rows: Tensor, count: int, chunk: int = 1024) -> Tensor:
    """int64 [n, k]: the `count` rows with the highest cosine to each of the unit rows [n, E], itself left out, at most n − 1."""
    found, count = [], min(count, len(rows) - 1)
    for span in spans(len(rows), chunk):
        cosines = rows[span.start : span.stop] @ rows.T
        cosines[torch.arange(len(span)), torch.tensor(span)] = float("-inf")
        found.append(cosines.topk(count).indices)
    return torch.cat(found)


def agreement(rows: Tensor, goal: Tensor) -> dict[str, float]:
    """Mean share of the first k neighbours in `goal` [n, K] that are among the first k of `rows` [n, E], for each k of COUNTS."""
    mine = nearest(rows, goal.shape[1])
    return {
        name: float((mine[:, :k, None] == goal[:, None, :k]).any(1).double().mean())
        for name, k in zip(NAMES, COUNTS, strict=True)
    }
