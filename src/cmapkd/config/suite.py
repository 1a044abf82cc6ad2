"""A suite: the data of the five tasks on which models are scored side by side. Imports no torch."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from cmapkd.config.explain import explain
from cmapkd.config.schema import Positive, Section
from cmapkd.config.text import MAX_BYTES, parse
from cmapkd.core.errors import UsageError

SUITES = Path(__file__).parent.parent / "recipes" / "suites"


class ScoredData(Section):
    """Data that a model is scored on as it is. data: a path or scenes:N; split, images, classes as in a run's config."""

    data: str
    split: str | None = None
    images: Path | None = None
    classes: Path | None = None


class HeadData(Section):
    """Data of a task with a head: it is trained on `train` and scored on `val`, the tower frozen."""

    train: str
    val: str
    train_split: str | None = None
    val_split: str | None = None
    images: Path | None = None
    epochs: Positive = 10.0
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Positive = 1e-3
    seed: int = 0


class SuiteConfig(Section):
    """Which tasks, on what. A task that is left out is not in the table."""

    retrieval: ScoredData | None = None
    zeroshot: ScoredData | None = None
    vqa: HeadData | None = None
    detection: HeadData | None = None
    captioning: HeadData | None = None


def load_suite(path: Path) -> SuiteConfig:
    """The suite of a YAML file or of a shipped name (`scenes`). Raises UsageError, a line an error."""
    shipped = SUITES / f"{path}.yaml"
    if not path.exists() and path.parent == Path() and shipped.is_file():
        path = shipped
    if not path.is_file():
        names = sorted(file.stem for file in SUITES.glob("*.yaml"))
        near = difflib.get_close_matches(path.stem, names, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UsageError(f"suite {path}: no such file, and no suite of that name; suites: {', '.join(names)}{hint}")
    with path.open(encoding="utf-8") as file:
        tree = parse(file.read(MAX_BYTES + 1), str(path))
    try:
        suite = SuiteConfig.model_validate(tree)
    except ValidationError as error:
        raise UsageError(explain(error, str(path))) from None
    if not any(getattr(suite, task) for task in SuiteConfig.model_fields):
        raise UsageError(f"suite {path}: names no task; give one of {', '.join(SuiteConfig.model_fields)}")
    return suite
