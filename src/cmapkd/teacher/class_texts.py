"""Class texts: the teacher's embeddings of the classes' prompts, for methods that classify; data without classes get pseudo-classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from cmapkd.core.log import say
from cmapkd.data.class_prompt import CLASS_PROMPT
from cmapkd.data.samples import Samples
from cmapkd.teacher.cached import CachedTeacher
from cmapkd.teacher.protocol import Teacher
from cmapkd.towers.dual import DualEncoder

PSEUDO_CLASSES = 64


@dataclass(frozen=True)
class ClassTexts:
    """embeddings: unit rows in the teacher's space; labels: the class of every sample; pseudo: found by k-means, not given."""

    embeddings: Float[Tensor, "c e"]
    labels: Int[Tensor, " n"]
    pseudo: bool


def open_class_texts(samples: Samples, tower: DualEncoder | None, teacher: Teacher) -> ClassTexts:
    """The data's own classes as prompts; else k-means of the teacher's embedding of each image's first caption."""
    assert tower is not None, "class texts need the teacher itself"
    if samples.labels is not None and samples.classes is not None:
        texts = tower.encode_texts([CLASS_PROMPT.format(name) for name in samples.classes]).clone().cpu()
        return ClassTexts(texts, torch.tensor(list(samples.labels)), False)
    first = samples.caption_offsets[: len(samples)]
    if isinstance(teacher, CachedTeacher):
        rows = torch.from_numpy(teacher.text.read_float("final", first))
    else:
        rows = tower.encode_texts([captions[0] for captions in samples.captions]).clone().cpu()
    count = min(PSEUDO_CLASSES, len(samples))
    say(
        f"class texts: {samples.name} has no classes; {count} pseudo-classes by k-means of the teacher's caption embeddings"
    )
    centres, labels = spherical_kmeans(F.normalize(rows.float(), dim=-1), count)
    return ClassTexts(centres, labels, True)


def spherical_kmeans(
    rows: Float[Tensor, "n e"], count: int, rounds: int = 20, seed: int = 0
) -> tuple[Float[Tensor, "c e"], Int[Tensor, " n"]]:
    """(unit centres, label of each unit row): Lloyd's rounds on cosines; a centre that loses all its rows stays."""
    order = np.random.default_rng(seed).permutation(len(rows))[:count]
    centres = rows[torch.from_numpy(order)]
    for _ in range(rounds):
        labels = (rows @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, labels, rows)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=-1), centres)
    return centres, (rows @ centres.T).argmax(1)
