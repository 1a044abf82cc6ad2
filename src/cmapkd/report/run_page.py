"""report.html: a run as one offline page, with its score table as Markdown and CSV beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmapkd.core import fsio
from cmapkd.report.html import SYNTHETIC, PlotSection, fill
from cmapkd.report.log_series import balance_table
from cmapkd.report.score_table import ScoreRow, score_table, to_csv, to_markdown

PAGE, MARKDOWN, CSV = "report.html", "scores.md", "scores.csv"
THUMBNAIL = 192


@dataclass(frozen=True)
class Retrieved:
    """A caption and the images retrieved for it, best first, uint8 [H, W, 3]; `right`: the rank of its own image, or None."""

    query: str
    images: tuple[np.ndarray, ...]
    right: int | None


@dataclass(frozen=True)
class RunPage:
    """The content of the page; a section without content is left out.

    data: lines with split, counts and fingerprint. log: the rows of metrics.jsonl. config: the YAML of the run.
    """

    title: str
    subtitle: str = ""
    synthetic: bool = False
    warnings: tuple[str, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    data: tuple[str, ...] = ()
    log: Sequence[Mapping[str, Any]] = ()
    plots: Sequence[PlotSection] = ()
    examples: tuple[Retrieved, ...] = ()
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def write_run_page(folder: Path, content: RunPage) -> Path:
    """Write report.html, and scores.md and scores.csv where there are scores; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    if content.scores:
        fsio.write_bytes(folder / MARKDOWN, to_markdown(content.scores).encode())
        fsio.write_bytes(folder / CSV, to_csv(content.scores).encode())
    fsio.write_bytes(folder / PAGE, render(content).encode())
    return folder / PAGE


def render(content: RunPage) -> str:
    """The page as HTML text."""
    return fill(
        "report.html.j2",
        title=content.title,
        subtitle=content.subtitle,
        warnings=((SYNTHETIC,) if content.synthetic else ()) + content.warnings,
        table=score_table(content.scores) if content.scores else None,
        data=content.data,
        sections=content.plots,
        balance=balance_table(content.log),
        examples=[
            {"query": e.query, "right": e.right, "images": [data_uri(i) for i in e.images]} for e in content.examples
        ],
        command=content.command,
        config=content.config,
        environment=content.environment,
    )


def data_uri(pixels: np.ndarray) -> str:
    """A picture inside the page: JPEG of at most THUMBNAIL pixels a side, from uint8 [H, W, 3]."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
