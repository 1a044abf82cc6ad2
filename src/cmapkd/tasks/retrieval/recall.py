"""Image-text retrieval by rank counting: R@k and median rank in both directions, ties and NaN against the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.core.errors import DataError

# BLAS libraries multiply slivers with other kernels, which sum in another order; below this side the last bit of a
# score would depend on where its tile was cut, so that smaller tiles are padded with zeros.
SMALLEST = 64


@dataclass(frozen=True)
class Ranks:
    """Number of wrong candidates ranked before the right one. image: int64 [M] per caption; text: int64 [N] per image."""

    image: Tensor
    text: Tensor


def recalls(
    image: Tensor,
    text: Tensor,
    owner: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 256,
) -> dict[str, float]:
    """Recalls in [0, 1] and median ranks (from 1), under clip-benchmark's names: `image_retrieval_…` is text→image.

    image: [N, E]; text: [M, E]; owner: int [M], the image that each caption belongs to. chunk: images scored at a time; it changes memory, never figures.
    Raises DataError when an image has no caption or a caption no image.
    """
    found = ranks(image, text, owner, chunk)
    metrics: dict[str, float] = {}
    for name, rank in (("image", found.image), ("text", found.text)):
        for k in ks:
            metrics[f"{name}_retrieval_recall@{k}"] = int((rank < k).sum()) / len(rank)
        metrics[f"{name}_retrieval_medr"] = float(np.floor(np.median(rank.cpu().numpy()))) + 1
    for k in ks[:1]:
        metrics[f"mean_recall@{k}"] = sum(metrics[f"{name}_retrieval_recall@{k}"] for name in ("image", "text")) / 2
    every = [value for name, value in metrics.items() if "_retrieval_recall@" in name]
    metrics["mean_recall"] = sum(every) / len(every)
    return metrics


def first_captions(owner: Tensor, n: int) -> Tensor:
    """int64 [N]: the position of each image's first caption."""
    _check_owners(owner, n)
    first = torch.full((n,), len(owner), dtype=torch.int64, device=owner.device)
    return first.scatter_reduce(0, owner.long(), torch.arange(len(owner), device=owner.device), "amin")


@torch.no_grad()
def ranks(image: Tensor, text: Tensor, owner: Tensor, chunk: int = 256) -> Ranks:
    """Ranks without sorting and without the full matrix: one pass of tiles, a comparison and a sum for each direction.

    Text→image: the images whose score is not below that of the caption's own. Image→text: the captions of *other*
    images whose score is not below that of the image's best own caption. A score that is NaN is never below anything
    and nothing is below a NaN, so NaN counts against the model on either side.
    Tiles with right pairs are computed first and kept, because a right score that came from another product
    than the wrong ones could lose to its own duplicate by a rounding error.
    """
    n, m = len(image), len(text)
    _check_owners(owner, n)
    owner = owner.to(image.device).long()
    order = owner.argsort(stable=True)
    owners = owner[order]
    per_image = owners.bincount(minlength=n)
    rows = _side(n, chunk)
    columns = _side(m, chunk * max(1, round(m / n)))
    # Captions mostly come in the order of their images already; gathering them again would only copy.
    text = text if torch.equal(owner, owners) else text[order]
    padded = _padded(image.float(), rows), _padded(text.float(), columns)
    kept, own = _right_scores(*padded, owners, rows, columns)

    usable = torch.where(own.isnan(), -torch.inf, own)
    best = torch.full((n,), -torch.inf, device=own.device).scatter_reduce(0, owners, usable, "amax")
    below_right = torch.zeros(m, dtype=torch.int64, device=own.device)
    below_best = torch.zeros(n, dtype=torch.int64, device=own.device)
    flags = torch.empty(rows, columns, device=own.device)
    scores = torch.empty(rows, columns, device=own.device)
    for j in range(0, m, columns):
        right = own[j : j + columns]
        for i in range(0, n, rows):
            tile = kept.pop((i, j), None)
            if tile is None:
                tile = torch.mm(padded[0][i : i + rows], padded[1][j : j + columns].T, out=scores)
            tile, flag = tile[: n - i, : m - j], flags[: n - i, : m - j]
            # Ones as floats: their sums are exact up to 2^24 and many times faster than sums of booleans.
            below_right[j : j + columns] += torch.lt(tile, right, out=flag).sum(0).long()
            below_best[i : i + rows] += torch.lt(tile, best[i : i + rows, None], out=flag).sum(1).long()
    own_below = torch.zeros_like(per_image).index_add(0, owners, (own < best[owners]).long())
    by_caption = torch.empty_like(below_right)
    by_caption[order] = (n - 1) - below_right
    return Ranks(by_caption, (m - per_image) - (below_best - own_below))


def _right_scores(
    image: Tensor, text: Tensor, owners: Tensor, rows: int, columns: int
) -> tuple[dict[tuple[int, int], Tensor], Tensor]:
    """The tiles that hold right pairs, by their corner, and each caption's score with its own image [M]."""
    own = torch.empty(len(owners), device=image.device)
    kept: dict[tuple[int, int], Tensor] = {}
    for j in range(0, len(owners), columns):
        these = owners[j : j + columns]
        for i in range(int(these[0]) // rows * rows, int(these[-1]) + 1, rows):
            tile = kept[i, j] = image[i : i + rows] @ text[j : j + columns].T
            inside = ((these >= i) & (these < i + rows)).nonzero().squeeze(1)
            own[j + inside] = tile[these[inside] - i, inside]
    return kept, own


def _side(length: int, chunk: int) -> int:
    """Side of a tile: `length` cut evenly into as few parts of at most `chunk` as it takes, never below SMALLEST."""
    parts = -(-length // max(chunk, 1))
    return max(SMALLEST, -(-length // parts))


def _padded(x: Tensor, multiple: int) -> Tensor:
    missing = -len(x) % multiple
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def _check_owners(owner: Tensor, n: int) -> None:
    if len(owner) == 0 or int(owner.min()) < 0 or int(owner.max()) >= n:
        raise DataError(
            f"retrieval: captions must belong to images 0 to {n - 1}, and there must be at least one caption"
        )
    without = (owner.long().bincount(minlength=n) == 0).nonzero().squeeze(1)
    if len(without):
        raise DataError(
            f"retrieval: {len(without)} of {n} images have no caption (first: image {int(without[0])}); "
            "every image is a query and needs one, so leave those images out"
        )
