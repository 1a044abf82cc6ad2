"""Questions about images with the answers of annotators, as in VQA v2."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Questions:
    """Visual questions: one entry per question in every tuple.

    answers: ten each in VQA v2, none where they are not published (test). paths: the image of each question; empty when
    the images were not asked for. notes: what the reader dropped, and why.
    """

    name: str
    ids: tuple[int, ...]
    image_ids: tuple[int, ...]
    paths: tuple[Path, ...]
    questions: tuple[str, ...]
    question_types: tuple[str, ...]
    answer_types: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answered(self) -> bool:
        """Whether every question has answers."""
        return all(self.answers)

    def fingerprint(self) -> str:
        """SHA-256 over ids, questions and answers, not over images."""
        digest = hashlib.sha256()
        for key, text, answers in zip(self.ids, self.questions, self.answers, strict=True):
            digest.update("\x1f".join((str(key), text, *answers, "\x1e")).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def subset(self, indices: np.ndarray) -> Questions:
        pick = [int(i) for i in indices]
        columns = ("ids", "image_ids", "questions", "question_types", "answer_types", "answers")
        chosen = {column: tuple(getattr(self, column)[i] for i in pick) for column in columns}
        return replace(self, **chosen, paths=tuple(self.paths[i] for i in pick) if self.paths else ())
