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
FITTED = 2**17  # images that pseudo-classes are fitted on, at most
PART = 2**13  # captions that are encoded at a time


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
    n, count = len(samples), min(PSEUDO_CLASSES, len(samples))
    fitted = np.unique(np.linspace(0, n - 1, min(n, FITTED)).astype(np.int64))
    some = f", fitted on {len(fitted)} of {n} images, evenly spread" if len(fitted) < n else ""
    say(
        f"class texts: {samples.name} has no classes; {count} pseudo-classes by k-means of the teacher's caption embeddings"
        + some
    )
    rows = [_first_captions(samples, tower, teacher, part) for part in _parts(fitted)]
    centres, labels = spherical_kmeans(torch.cat(rows), count)
    if some:
        each = (_first_captions(samples, tower, teacher, part) @ centres.T for part in _parts(np.arange(n)))
        labels = torch.cat([scores.argmax(1) for scores in each])
    return ClassTexts(centres, labels, True)


def _first_captions(samples: Samples, tower: DualEncoder, teacher: Teacher, images: np.ndarray) -> Float[Tensor, "b e"]:
    """The teacher's unit embeddings of the first captions of these images."""
    first = samples.caption_spans(images)[0]
    if isinstance(teacher, CachedTeacher) and teacher.text is not None:
        rows = torch.from_numpy(teacher.text.read_float("final", first))
    else:
        captions = samples.flat_captions()
        rows = tower.encode_texts([captions[k] for k in first]).clone().cpu()
    return F.normalize(rows.float(), dim=-1)


def _parts(indices: np.ndarray) -> list[np.ndarray]:
    return np.array_split(indices, -(-len(indices) // PART))


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
