"""Plots as SVG text in the page's own text colour, so that one drawing serves light and dark pages."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"  # drawn in this colour, which is then replaced by currentColor
COLOURS = ("#3b7dd8", "#d9822b", "#3a9e6e", "#b8527f", "#7a6bd1", "#2aa3a3", "#b39b2e", "#8a8f98")
LEVEL_COLOURS = {
    "P2": "#a9cbec", "P3": "#6fa5dc", "P4": "#3f7ec2", "P5": "#2a5a94",
    "L1": "#f3cd9f", "L2": "#e6a45b", "L3": "#cc7a2b", "L4": "#995518",
}  # fmt: skip
STYLE: dict[Any, Any] = {
    "font.size": 9, "svg.fonttype": "none", "font.family": "sans-serif", "text.color": INK, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "legend.frameon": False,
    "axes.titlesize": 9, "axes.titleweight": "normal", "axes.titlelocation": "left", "savefig.transparent": True,
}  # fmt: skip
WIDTH = 7.6
POINTS = 300


@dataclass(frozen=True)
class Matrix:
    """Numbers with row and column names: values[r][c] belongs to rows[r] and columns[c]."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


Series = tuple[Sequence[float], Sequence[float]]


@mpl.rc_context(STYLE)
def small_multiples(series: Mapping[str, Series], boundaries: Sequence[float], name: str) -> str:
    """One small plot per series on its own scale: the values pale, their running mean over them."""
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    figure = Figure(figsize=(WIDTH, 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (title, (x, y)), colour in zip(axes, series.items(), _colours(len(series)), strict=False):
        smooth = running_mean(y, max(1, len(y) // 40))
        # More points than pixels would only make the page large.
        kept = np.linspace(0, len(y) - 1, min(len(y), POINTS)).round().astype(int)
        x, y, smooth = np.asarray(x)[kept], np.asarray(y)[kept], smooth[kept]
        if len(x) > 20:
            ax.plot(x, y, color=colour, alpha=0.3, linewidth=0.7)
        ax.plot(x, smooth, color=colour, linewidth=1.4)
        _mark(ax, boundaries)
        ax.set_title(title)
        ax.locator_params(axis="x", nbins=4)
        ax.locator_params(axis="y", nbins=4)
    for ax in axes[len(series) :]:
        ax.set_axis_off()
    return _to_svg(figure, name)


@mpl.rc_context(STYLE)
def lines(
    series: Mapping[str, Series], boundaries: Sequence[float], ylabel: str, name: str, xlabel: str = "step"
) -> str:
    """All series in one plot, each labelled at its end instead of in a legend."""
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    ax = figure.subplots()
    ends = []
    for (title, (x, y)), colour in zip(series.items(), _colours(len(series)), strict=True):
        ax.plot(x, y, color=colour, linewidth=1.5, marker="o", markersize=2.5)
        ends.append((x[-1], y[-1], title, colour))
    _mark(ax, boundaries)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    heights = spread_out([height for _, height, *_ in ends], (high - low) * 0.075)
    for height, (x, _, title, colour) in zip(heights, ends, strict=True):
        ax.text(x + 0.012 * (right - left), height, title, color=colour, va="center", clip_on=False)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    return _to_svg(figure, name)


@mpl.rc_context(STYLE)
def level_weights(levels: Mapping[str, Series], boundaries: Sequence[float], stages: Sequence[str], name: str) -> str:
    """The pyramid levels' fractions of their summed weight by step, stacked; stages named above."""
    names = [level for level in LEVEL_COLOURS if level in levels]
    steps = np.asarray(levels[names[0]][0], dtype=float)
    values = np.asarray([levels[level][1] for level in names], dtype=float)
    kept = np.linspace(0, len(steps) - 1, min(len(steps), POINTS)).round().astype(int)
    steps, values = steps[kept], values[:, kept]
    total = values.sum(0)
    fractions = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    ax = figure.subplots()
    ax.stackplot(steps, fractions, colors=[LEVEL_COLOURS[level] for level in names], labels=names, linewidth=0)
    _mark(ax, boundaries)
    edges = [steps[0], *boundaries, steps[-1]]
    for stage, left, right in zip(stages, edges[:-1], edges[1:], strict=False):
        ax.text((left + right) / 2, 1.02, stage, ha="center", va="bottom")
    ax.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    ax.set_ylim(0, 1)
    ax.set_xlabel("step")
    ax.set_ylabel("fraction of the level weights")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _to_svg(figure, name)


@mpl.rc_context(STYLE)
def heat_map(matrix: Matrix, name: str, decimals: int = 2, cell: float = 0.62) -> str:
    """A matrix with its numbers, cells shaded from smallest to largest; NaN cells stay empty."""
    values = np.asarray(matrix.values, dtype=float)
    width = min(WIDTH, 1.2 + cell * len(matrix.columns))
    figure = Figure(
        figsize=(width, 0.5 + min(cell, 8 / max(1, len(matrix.rows))) * len(matrix.rows) * 0.8), layout="constrained"
    )
    ax = figure.subplots()
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    colours = mpl.colormaps["Blues"]
    shade = (values - low) / (high - low) if high > low else np.full_like(values, 0.5)
    ax.imshow(shade, cmap=colours, vmin=-0.1, vmax=1.15, aspect="auto")
    for r, row in enumerate(values):
        for c, value in enumerate(row):
            if math.isfinite(value):
                ink = "#ffffff" if shade[r, c] > 0.55 else "#16202c"
                ax.text(c, r, f"{value:.{decimals}f}", ha="center", va="center", color=ink, fontsize=8)
    ax.set_xticks(range(len(matrix.columns)), matrix.columns)
    ax.set_yticks(range(len(matrix.rows)), matrix.rows)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    return _to_svg(figure, name)


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Mean over the last `window` values, over fewer at the start; values that are not finite are left out."""
    y = np.asarray(values, dtype=float)
    known = np.isfinite(y)
    sums, counts = np.cumsum(np.where(known, y, 0.0)), np.cumsum(known)
    sums[window:], counts[window:] = sums[window:] - sums[:-window], counts[window:] - counts[:-window]
    return np.divide(sums, counts, out=np.full_like(y, np.nan), where=counts > 0)


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """The heights of labels, moved up where needed so that they are at least `gap` apart."""
    placed = list(heights)
    for below, above in pairwise(np.argsort(heights).tolist()):
        placed[above] = max(placed[above], placed[below] + gap)
    return placed


def _mark(ax: Axes, boundaries: Sequence[float]) -> None:
    for boundary in boundaries:
        ax.axvline(boundary, color=INK, alpha=0.35, linewidth=0.6, linestyle=(0, (4, 3)))


def _colours(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _to_svg(figure: Figure, name: str) -> str:
    """The bare <svg> element; ids begin with `name`, since several plots share one page."""
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # The page's style applies to the plot too; matplotlib's own style element would apply to the whole page.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|font-family: [^;]*; ", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return svg.replace(INK, "currentColor")
