"""Offline HTML pages from the package's Jinja templates: everything escaped, nothing loaded from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

SYNTHETIC = (
    "Synthetic data: a program generated these images and captions. The scores compare methods with each other; they "
    "say nothing about photographs."
)


@dataclass(frozen=True)
class PlotSection:
    """A section of a page: a heading, a plot as SVG and the sentence below it."""

    title: str
    svg: Markup
    caption: str


def fill(template: str, **content: Any) -> str:
    """The template filled with `content`; a name that the template needs and does not get is an error."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return templates.get_template(template).render(**content)
