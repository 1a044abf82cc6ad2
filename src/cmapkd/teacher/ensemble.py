"""Several stored teachers at once: the outputs of the first, with the final embeddings of the others beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.core.types import Batch, Needs, TeacherOutputs
from cmapkd.store.store import Store
from cmapkd.teacher.cached import CachedTeacher
from cmapkd.teacher.layout import similarity_of
from cmapkd.teacher.protocol import Teacher

FINAL_ONLY = Needs(teacher=True)
SHARED = ("data", "views")  # what all caches of an ensemble must have been written from


class Ensemble:
    """Outputs of `first`, and of `others` the final embeddings, scale and bias. Their levels stay unread."""

    def __init__(self, first: Teacher, others: Sequence[CachedTeacher]) -> None:
        self.first, self.others, self.needs_inputs = first, others, first.needs_inputs

    def outputs(self, batch: Batch, needs: Needs) -> TeacherOutputs:
        first, others = self.first.outputs(batch, needs), [t.outputs(batch, FINAL_ONLY) for t in self.others]
        read = first.read + sum(other.read for other in others)
        return replace(first, others=tuple((other.final, other.similarity) for other in others), read=read)


def open_ensemble(
    first: Teacher, folders: Sequence[Path], key: dict[str, str], views: int, device: torch.device
) -> Teacher:
    """`first` with the finished caches in `folders` beside it; `key` is that of this run's own cache.

    Raises UsageError for a folder without a finished cache, IntegrityError for one of other data or views.
    """
    return Ensemble(first, [_open(folder, key, views, device) for folder in folders]) if folders else first


def _open(folder: Path, key: dict[str, str], views: int, device: torch.device) -> CachedTeacher:
    record = folder / "teacher.json"
    if not record.is_file():
        raise UsageError(
            f"cache.ensemble {folder}: no finished cache here; run `cmapkd cache` with another teacher.model and "
            f"cache.path={folder} first"
        )
    if not (folder / "text").is_dir():
        raise UsageError(f"cache.ensemble {folder}: its teacher has no text tower; leave it out")
    image, text = Store(folder / "image"), Store(folder / "text")
    for name in SHARED:
        if image.key[name] != key[name]:
            raise IntegrityError(
                f"cache.ensemble {folder}: its '{name}' are others than this run's; all teachers of an ensemble must "
                "have seen the same views of the same data: write it again with this config's data"
            )
    teacher = CachedTeacher(image, text, views, similarity_of(json.loads(record.read_text())))
    teacher.device = device
    return teacher
