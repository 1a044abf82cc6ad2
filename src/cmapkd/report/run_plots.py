"""The plots of a run's page: validation, losses, level weights, the policy, and the matrices of levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cmapkd.report import plots
from cmapkd.report.html import PlotSection
from cmapkd.report.log_series import saved, series, stage_boundaries, validation_percent, validation_series
from cmapkd.report.plots import Matrix

POLICY = {"reward": "reward", "trust": "trust", "levels": "levels awake", "bytes": "bytes read"}
Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class LevelMatrices:
    """Matrices about the pyramid's levels; None for one that is not known.

    stages: stages × levels, 1 where the level teaches. samples: weights, samples × levels. coupling: the prior α of image
    × text levels. factor: the policy's mean factor on α. bridge: R@1 between image level i and text level j, a fraction.
    """

    stages: Matrix | None = None
    samples: Matrix | None = None
    coupling: Matrix | None = None
    factor: Matrix | None = None
    bridge: Matrix | None = None


# field of LevelMatrices → title, factor on its values, decimals, caption
MATRICES = {
    "stages": ("Levels of each stage", 1, 0, "1: the level teaches in this stage."),
    "samples": ("Level weights of single samples", 1, 2, "One row per sample, from short to long captions."),
    "coupling": (
        "Coupling of levels",
        1,
        2,
        "α, the weight of each pair of image level (row) and text level (column).",
    ),
    "factor": ("The policy's factor on the coupling", 1, 2, "Factor on α, mean over samples."),
    "bridge": ("Bridge", 100, 1, "R@1 in percent between image level (row) and text level (column)."),
}


def run_plots(log: Log, stages: Sequence[str], matrices: LevelMatrices) -> list[PlotSection]:
    """The plots that the log and the matrices have content for, in reading order; stages: names in order."""
    boundaries = stage_boundaries(log)
    found = [
        _validation(log, boundaries), _losses(log, boundaries), _level_weights(log, boundaries, stages),
        _policy(log, boundaries), _evidence(log, boundaries), *(_heat_map(matrices, name) for name in MATRICES),
    ]  # fmt: skip
    return [section for section in found if section is not None]


def _validation(log: Log, boundaries: Sequence[float]) -> PlotSection | None:
    if not (shown := validation_percent(validation_series(log))):
        return None
    svg = plots.lines(shown, boundaries, "%", "validation")
    return PlotSection("Validation", Markup(svg), "Scores on the validation split; dashes mark a new stage.")


def _losses(log: Log, boundaries: Sequence[float]) -> PlotSection | None:
    if not (losses := series(log, "loss/")):
        return None
    svg = plots.small_multiples(losses, boundaries, "losses")
    return PlotSection("Losses", Markup(svg), "Each term by step, before its weight, each on its own scale.")


def _level_weights(log: Log, boundaries: Sequence[float], stages: Sequence[str]) -> PlotSection | None:
    if not (levels := series(log, "weight/")):
        return None
    svg = plots.level_weights(levels, boundaries, stages, "levels")
    caption = "Weight of each pyramid level: P2–P5 of the image, L1–L4 of the text, mean over the batch."
    return PlotSection("Level weights", Markup(svg), caption)


def _policy(log: Log, boundaries: Sequence[float]) -> PlotSection | None:
    if not any(row.get("kind") == "policy" for row in log):
        return None
    shown = {POLICY[name]: line for name, line in series(log, "").items() if name in POLICY}
    svg = plots.small_multiples(shown, boundaries, "policy")
    caption = "The policy's reward on held-out pairs, its trust, and the levels computed and bytes read in a step."
    return PlotSection("Policy", Markup(svg), f"{caption} {saved(log)}".rstrip())


def _evidence(log: Log, boundaries: Sequence[float]) -> PlotSection | None:
    if not (evidence := series(log, "t/")):
        return None
    svg = plots.lines(evidence, boundaries, "t", "evidence")
    caption = "Credit of each level on held-out pairs over its standard error; a level below -2 is put to sleep."
    return PlotSection("Evidence", Markup(svg), caption)


def _heat_map(matrices: LevelMatrices, name: str) -> PlotSection | None:
    matrix: Matrix | None = getattr(matrices, name)
    if matrix is None:
        return None
    title, factor, decimals, caption = MATRICES[name]
    scaled = Matrix(matrix.rows, matrix.columns, tuple(tuple(factor * v for v in row) for row in matrix.values))
    return PlotSection(title, Markup(plots.heat_map(scaled, name, decimals)), caption)
