"""Student-teacher agreement: equal top-1 hits, and the correlation of their similarity matrices."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.core.errors import DataError
from cmapkd.core.types import Pair
from cmapkd.data.loader import read_images
from cmapkd.data.samples import Samples
from cmapkd.tasks.encoder import Encoder, embed_images, embed_texts
from cmapkd.tasks.score import Score

MOST = 1024  # images, and captions: the similarity matrix grows with their product


def score_agreement(
    student: Encoder, teacher: Encoder, samples: Samples, teacher_name: str, batch: int = 256, most: int = MOST
) -> Score:
    """The agreement on at most `most` images and captions, drawn with a fixed seed. Raises DataError without captions."""
    if not samples.n_captions:
        raise DataError(f"agreement: {samples.name} has no captions; give data with captions, or drop --teacher")
    generator = torch.Generator().manual_seed(0)
    rows, columns = (_draw(n, most, generator) for n in (len(samples), samples.n_captions))
    images, every = samples.subset(rows.numpy()), samples.flat_captions()
    captions = [every[i] for i in columns.tolist()]
    ours, theirs = (
        Pair(
            embed_images(model, partial(read_images, images, size=model.image_size), len(images), batch),
            embed_texts(model, captions, batch),
        )
        for model in (student, teacher)
    )
    return Score(
        "agreement", f"with {teacher_name}", agreement(ours, theirs), samples.name, len(images), len(captions),
        samples.fingerprint(), notes=samples.notes,
    )  # fmt: skip


def agreement(student: Pair[Tensor], teacher: Pair[Tensor]) -> dict[str, float]:
    """Each model's image [N, E] and text [M, E] embeddings of the same images and captions; the widths E may differ.

    image_top1_agreement: share of captions for which both rank the same image first; text_top1_agreement: the same for
    images and captions; pearson and spearman: correlation of the two image × text similarity matrices. NaN where a
    matrix is constant.
    """
    ours, theirs = (
        F.normalize(pair.image.float(), dim=-1) @ F.normalize(pair.text.float(), dim=-1).T
        for pair in (student, teacher)
    )
    return {
        "image_top1_agreement": float((ours.argmax(0) == theirs.argmax(0)).double().mean()),
        "text_top1_agreement": float((ours.argmax(1) == theirs.argmax(1)).double().mean()),
        "pearson": pearson(ours, theirs),
        "spearman": pearson(fractional_ranks(ours), fractional_ranks(theirs)),
    }


def pearson(a: Tensor, b: Tensor) -> float:
    """Linear correlation of two tensors of the same size, read flat."""
    a, b = (x.flatten().double() - x.double().mean() for x in (a, b))
    return float((a @ b) / (a.norm() * b.norm()))


def fractional_ranks(x: Tensor) -> Tensor:
    """float64 [n] ranks of the flat values; equal values share the mean of their ranks."""
    _, group, count = x.flatten().unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count - 1) / 2)[group]


def _draw(n: int, most: int, generator: torch.Generator) -> Tensor:
    """int64: at most `most` of 0..n, rising."""
    return torch.randperm(n, generator=generator)[:most].sort().values
