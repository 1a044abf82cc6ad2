"""The teacher's side of every feature loss: calibrated once, then frozen, no learnable part.

T_k = (LN0(x) − μ_k) U_r Hᵀ / s_k: parameter-free LayerNorm per token, the top r principal components, an orthonormal
Hadamard rotation and one scalar per level. Every channel then has unit variance, no noise direction is amplified
(PHI-S, arXiv 2410.01680), and int8 storage meets near-Gaussian values. Collapse is impossible: nothing here moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.grid import area_matrix
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS, Features, Inputs, Pair, Teaching
from cmapkd.models.bridge import PairInformation, pair_information, ridge
from cmapkd.models.levels import resample_grid, sample_at
from cmapkd.models.sampling import importance, likeness, pps_places, starts, top_places
from cmapkd.models.tower import Tower, evaluating

MIN_RETAINED = 0.8
SPATIAL = ("P2", "P3", "P4")


def hadamard(size: int) -> Float[Tensor, "r r"]:
    """The orthonormal Sylvester-Hadamard matrix of a power-of-2 size."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5


def rank_for(width: int, rank: int) -> int:
    """The asked rank, a power of 2; of a level that is narrower, the first power of 2 that holds all of its width."""
    return min(rank, 1 << (width - 1).bit_length())


def stored_side(native: int, grid: int | None) -> int:
    """Side at which a spatial level is kept: its own, or `grid` when that is smaller."""
    return native if grid is None else min(native, grid)


class Targets(nn.Module):
    """Buffers only: per level μ [D], basis [D, r], bridge weight [2D, E] and bias [E]; τ, information, recall, α [4, 4].

    `grid` pools spatial levels (P2-P4, and P5's map) to that side before they are kept; `tokens` keeps only that many key
    tokens of P2-P4, the same places for all three: a sample in proportion to importance (`pps`), or `topk`.
    """

    def __init__(
        self, tensors: dict[str, Tensor], grid: int | None, tokens: int | None = None, sampling: str = "pps"
    ) -> None:
        super().__init__()
        self.grid, self.tokens, self.sampling = grid, tokens, sampling
        for name, tensor in tensors.items():
            self.register_buffer(name.replace("/", "_"), tensor, persistent=False)
        self.names = tuple(tensors)

    def get(self, name: str) -> Tensor:
        return getattr(self, name.replace("/", "_"))

    def tensors(self) -> dict[str, Tensor]:
        return {name: self.get(name) for name in self.names}

    @property
    def pairs(self) -> PairInformation:
        return PairInformation(
            *(self.get(f"pairs/{key}") for key in ("temperatures", "information", "recall", "alpha"))
        )

    def rank(self, level: str) -> int:
        return self.get(f"{level}/basis").shape[1]

    def level(self, name: str, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b m r"]:
        """T_k of raw tokens, spatially pooled as configured; float32."""
        if name in IMAGE_LEVELS and self.grid is not None:
            tokens = self._pool(name, tokens.float())
        normed = F.layer_norm(tokens.float(), tokens.shape[-1:])
        return (normed - self.get(f"{name}/mean")) @ self.get(f"{name}/basis")

    def bridge(self, features: Features, levels: tuple[str, ...]) -> Float[Tensor, "b k e"]:
        """Unit rows in the shared space, one per level."""
        rows = [
            p.float() @ self.get(f"{k}/bridge") + self.get(f"{k}/bias")
            for k, p in zip(levels, features.pooled, strict=True)
        ]
        return F.normalize(torch.stack(rows, 1), dim=-1)

    def teaching(
        self, features: Pair[Features], levels: Iterable[str], scale: float, which: tuple[Tensor, Tensor] | None = None
    ) -> Teaching:
        """Everything the losses need of the teacher on one batch; which: its samples and views."""
        wanted = set(levels)
        out, places, side = self.image_levels(features.image, wanted, which)
        masks = {}
        for name, tokens, mask in zip(TEXT_LEVELS, features.text.levels, features.text.masks, strict=True):
            if name in wanted:
                out[name] = self.level(name, tokens)
                if mask is not None:
                    masks[name] = mask
        bridge = Pair(self.bridge(features.image, IMAGE_LEVELS), self.bridge(features.text, TEXT_LEVELS))
        return Teaching(
            out, masks, bridge, features.map(lambda f: F.normalize(f.final.float(), dim=-1)), scale, places, side
        )

    def image_levels(
        self, image: Features, wanted: Iterable[str], which: tuple[Tensor, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], Tensor | None, int]:
        """(targets, places of the key tokens or None, side of their grid) of the image levels asked for.

        which: int64 [B] samples and [B] views, whose sampled tokens are always the same ones.
        """
        tokens = dict(zip(IMAGE_LEVELS, image.levels, strict=True))
        side = round(tokens["P4"].shape[1] ** 0.5)
        places = None
        if self.tokens is not None:
            alike = likeness(tokens["P4"].float(), tokens["P5"][:, -2].float())
            if self.sampling == "topk":
                places = top_places(alike, self.tokens)
            else:
                assert which is not None, "a sample of tokens belongs to a sample and a view"
                places = pps_places(importance(alike), self.tokens, starts(*which).to(alike.device))
            tokens |= {name: sample_at(tokens[name].float(), places, side) for name in SPATIAL}
        return {name: self.level(name, tokens[name]) for name in IMAGE_LEVELS if name in wanted}, places, side

    def _pool(self, name: str, tokens: Tensor) -> Tensor:
        extra = 2 if name == "P5" else 0
        n = round((tokens.shape[1] - extra) ** 0.5)
        side = stored_side(n, self.grid)
        if side == n:
            return tokens
        grid = resample_grid(tokens[:, : n * n], area_matrix(n, side).to(tokens))
        return torch.cat([grid, tokens[:, n * n :]], dim=1)


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
    tower: Tower, batches: Iterable[Inputs], rank: int, grid: int | None, keep: int | None = None, sampling: str = "pps"
) -> Targets:
    """One pass of the frozen teacher over train-split inputs (their pixels as they will be cached).

    Fits μ, the PCA-Hadamard basis and the bridge of each level. The last fifth of the samples is kept out of the
    bridge's fit and used for τ, α and the recall table. Raises UsageError when r components keep under 80 % variance.
    """
    moments = {name: _Moments() for name in LEVELS}
    pooled: dict[str, list[Tensor]] = {name: [] for name in LEVELS}
    final: Pair[list[Tensor]] = Pair([], [])
    with evaluating(tower):
        for inputs in batches:
            features = tower(inputs)
            for names, part in ((IMAGE_LEVELS, features.image), (TEXT_LEVELS, features.text)):
                for name, tokens, mask, pool in zip(names, part.levels, part.masks, part.pooled, strict=True):
                    moments[name].add(tokens, mask)
                    pooled[name].append(pool.float().cpu())
            final.zip(features.map(lambda f: F.normalize(f.final.float(), dim=-1).cpu())).map(
                lambda pair: pair[0].append(pair[1])
            )
    if not moments["P2"].count:
        raise UsageError("calibration saw no samples; data.train is empty")
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
    n = sum(map(len, final.image))
    fit = n - max(2, n // 5)
    ends = final.map(lambda rows: torch.cat(rows))
    held: dict[str, Tensor] = {}
    for names, target in ((IMAGE_LEVELS, ends.image), (TEXT_LEVELS, ends.text)):
        for name in names:
            rows = torch.cat(pooled[name])
            weight, bias = ridge(rows[:fit], target[:fit])
            tensors |= {f"{name}/bridge": weight, f"{name}/bias": bias}
            held[name] = rows[fit:] @ weight + bias
    pairs = pair_information(
        torch.stack([held[k] for k in IMAGE_LEVELS], 1), torch.stack([held[k] for k in TEXT_LEVELS], 1)
    )
    for key in ("temperatures", "information", "recall", "alpha"):
        tensors[f"pairs/{key}"] = getattr(pairs, key)
    return Targets(tensors, grid, keep, sampling)


def _principal(moment: _Moments, rank: int) -> tuple[Tensor, Tensor, float]:
    """(μ [D], basis U_r Hᵀ / s [D, r], share of variance kept)."""
    mean = moment.total / moment.count
    covariance = moment.outer / moment.count - torch.outer(mean, mean)  # type: ignore[arg-type]
    values, vectors = torch.linalg.eigh(covariance)
    missing = max(0, rank - len(values))  # components of variance 0, so that every channel still has the same
    top, vectors = F.pad(values[-rank:].clamp_min(0), (missing, 0)), F.pad(vectors[:, -rank:], (missing, 0))
    basis = vectors @ hadamard(rank).to(vectors).T / top.mean().clamp_min(1e-12).sqrt()
    return mean.float(), basis.float(), float(top.sum() / values.clamp_min(0).sum().clamp_min(1e-12))  # type: ignore[union-attr]
