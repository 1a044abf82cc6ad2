"""Calibration: one pass of the frozen teacher that fits the targets of its levels and its bridge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cmapkd.core.errors import UsageError
from cmapkd.core.tree import join
from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Inputs, Pair
from cmapkd.pyramid.bridge import pair_information, ridge, spread
from cmapkd.pyramid.targets import Targets, rank_for
from cmapkd.towers.dual import DualEncoder, evaluating

MIN_RETAINED = 0.8


def hadamard(size: int) -> Float[Tensor, "r r"]:
    """The orthonormal Sylvester-Hadamard matrix of a power-of-2 size."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5


@dataclass
class _Moments:
    """Streaming first and second moments of a level's normalised tokens, and its share of outlier tokens."""

    count: float = 0.0
    total: Tensor | float = 0.0
    outer: Tensor | float = 0.0
    outliers: float = 0.0

    def add(self, tokens: Tensor, mask: Tensor | None) -> None:
        flat = tokens.flatten(0, 1).float() if mask is None else tokens[mask].float()
        norms = flat.norm(dim=-1)
        self.outliers += float((norms > 5 * norms.median()).sum())
        flat = F.layer_norm(flat, flat.shape[-1:]).double()
        self.count += len(flat)
        self.total = self.total + flat.sum(0)
        self.outer = self.outer + flat.T @ flat


@torch.no_grad()
def calibrate(
    tower: DualEncoder,
    batches: Iterable[Inputs],
    rank: int,
    grid: int | None,
    keep: int | None = None,
    sampling: str = "pps",
) -> Targets:
    """One pass of the frozen teacher over train-split inputs (their pixels as they will be cached).

    Fits μ, the PCA-Hadamard basis and the bridge of each level. The last fifth of the samples is kept out of the
    bridge's fit and used for τ, α and the recall table. Raises UsageError when r components keep under 80 % variance.
    """
    moments, pooled, final = _observed(tower, batches)
    if not len(final.image):
        raise UsageError("calibration saw no samples; data.train is empty")
    return Targets(_bases(moments, rank) | _bridges(pooled, final), grid, keep, sampling)


def _observed(
    tower: DualEncoder, batches: Iterable[Inputs]
) -> tuple[dict[str, _Moments], dict[str, Tensor], Pair[Tensor]]:
    """(moments of each level's tokens, pooled vectors of each level [n, 2D], final embeddings [n, E], unit rows)."""
    moments = {name: _Moments() for name in tower.shape.levels}
    pooled: dict[str, list[Tensor]] = {name: [] for name in tower.shape.levels}
    final: list[Pair[Tensor]] = []
    with evaluating(tower):
        for inputs in batches:
            features = tower(inputs)
            for names, part in ((IMAGE_LEVELS, features.image), (TEXT_LEVELS, features.text)):
                for name, tokens, mask, pool in zip(names, part.levels, part.masks, part.pooled, strict=False):
                    if name not in moments:
                        continue
                    moments[name].add(tokens, mask)
                    pooled[name].append(pool.float().cpu())
            final.append(features.map(lambda f: F.normalize(f.final.float(), dim=-1).cpu()))
    rows = {name: torch.cat(parts) if parts else torch.empty(0) for name, parts in pooled.items()}
    return moments, rows, join(final) if final else Pair(torch.empty(0), torch.empty(0))


def _bases(moments: dict[str, _Moments], rank: int) -> dict[str, Tensor]:
    """μ and the PCA-Hadamard basis of each level, with its retained variance and its share of outlier tokens."""
    tensors: dict[str, Tensor] = {}
    for name, moment in moments.items():
        mean, basis, retained = _principal(moment, rank_for(len(moment.total), rank))  # type: ignore[arg-type]
        if retained < MIN_RETAINED:
            raise UsageError(
                f"cache.rank is {rank}, which keeps {retained:.0%} of level {name}'s variance; the rule is at least "
                f"{MIN_RETAINED:.0%}: try rank {2 * rank}"
            )
        tensors |= {f"{name}/mean": mean, f"{name}/basis": basis, f"{name}/retained": torch.tensor(retained)}
        tensors[f"{name}/outliers"] = torch.tensor(moment.outliers / moment.count)
    return tensors


def _bridges(pooled: dict[str, Tensor], final: Pair[Tensor]) -> dict[str, Tensor]:
    """The ridge map of each level, and τ, information, recall and α of each pair on the samples that are kept out.

    A level that the teacher does not give has zeros for the pairs; without levels of both modalities there are no pairs.
    """
    n = len(final.image)
    fit = n - max(2, n // 5)
    tensors: dict[str, Tensor] = {}
    held: dict[str, Tensor] = {}
    for names, target in ((IMAGE_LEVELS, final.image), (TEXT_LEVELS, final.text)):
        for name in [name for name in names if name in pooled]:
            weight, bias = ridge(pooled[name][:fit], target[:fit])
            tensors |= {f"{name}/bridge": weight, f"{name}/bias": bias}
            held[name] = pooled[name][fit:] @ weight + bias
    known = [[name for name in names if name in held] for names in (IMAGE_LEVELS, TEXT_LEVELS)]
    if not all(known):
        return tensors
    image, text = (torch.stack([held[name] for name in names], 1) for names in known)
    pairs = spread(
        pair_information(image, text),
        [IMAGE_LEVELS.index(k) for k in known[0]],
        [TEXT_LEVELS.index(k) for k in known[1]],
    )
    return tensors | {f"pairs/{key}": getattr(pairs, key) for key in ("temperatures", "information", "recall", "alpha")}


def _principal(moment: _Moments, rank: int) -> tuple[Tensor, Tensor, float]:
    """(μ [D], basis U_r Hᵀ / s [D, r], share of variance kept)."""
    mean = moment.total / moment.count
    covariance = moment.outer / moment.count - torch.outer(mean, mean)  # type: ignore[arg-type]
    values, vectors = torch.linalg.eigh(covariance)
    missing = max(0, rank - len(values))  # components of variance 0, so that every channel still has the same
    top, vectors = F.pad(values[-rank:].clamp_min(0), (missing, 0)), F.pad(vectors[:, -rank:], (missing, 0))
    basis = vectors @ hadamard(rank).to(vectors).T / top.mean().clamp_min(1e-12).sqrt()
    return mean.float(), basis.float(), float(top.sum() / values.clamp_min(0).sum().clamp_min(1e-12))  # type: ignore[union-attr]
