"""`cmapkd list`: the names that a config may use, each with one line of description."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable
from pathlib import Path

from cmapkd.config.load import RECIPES, recipes

PACKAGE = Path(__file__).parents[1]


def methods() -> list[tuple[str, str]]:
    from cmapkd.methods import METHODS

    return [(name, method.about) for name, method in METHODS.items()]


def policies() -> list[tuple[str, str]]:
    from cmapkd.policy import POLICIES

    return [(name, _first_line(policy)) for name, policy in POLICIES.items()]


def tasks() -> list[tuple[str, str]]:
    """Every task, and how it is scored where a model alone is not enough."""
    from cmapkd.tasks.table import TASKS

    ways = {name: "" if task.evaluate else f": cmapkd train-head {name}, or a suite" for name, task in TASKS.items()}
    return [(name, task.about + ways[name]) for name, task in TASKS.items()]


def protocols() -> list[tuple[str, str]]:
    from cmapkd.tasks.table import TASKS

    return [
        (name, f"{task}: {about}".rstrip(": "))
        for task, entry in TASKS.items()
        for name, about in entry.protocols.items()
    ]


def suites() -> list[tuple[str, str]]:
    from cmapkd.config.suite import SUITES

    return [(path.stem, _about(path)) for path in sorted(SUITES.glob("*.yaml"))]


def schedules() -> list[tuple[str, str]]:
    from cmapkd.config.schedules import SCHEDULES

    return [(name, ", ".join(f"{s.name} to {s.until:.0%}" for s in stages)) for name, stages in SCHEDULES.items()]


def towers() -> list[tuple[str, str]]:
    """The shipped teachers and architectures, then open_clip's, read from its folder: importing it takes seconds."""
    folders = sorted(path.parent.name for path in PACKAGE.glob("assets/*/open_clip_config.json"))
    rows = [(f"shipped:{name}", "trained, ships with the package") for name in folders]
    rows += [_architecture(path, "shipped architecture") for path in sorted(PACKAGE.glob("towers/configs/*.json"))]
    spec = importlib.util.find_spec("open_clip")
    if spec is not None and spec.submodule_search_locations:
        known = Path(spec.submodule_search_locations[0]) / "model_configs"
        rows += [_architecture(path, "open_clip") for path in sorted(known.glob("*.json"))]
    return rows


def families() -> list[tuple[str, str]]:
    """Every family of models: its levels, its similarity, the library that opens a trained student, and a name in a config."""
    from cmapkd.towers.families.known import FAMILIES

    return [(name, family.about) for name, family in FAMILIES.items()]


def recipe_names() -> list[tuple[str, str]]:
    return [(name, _about(RECIPES / f"{name}.yaml")) for name in recipes()]


LISTS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "methods": methods,
    "policies": policies,
    "tasks": tasks,
    "protocols": protocols,
    "families": families,
    "towers": towers,
    "schedules": schedules,
    "recipes": recipe_names,
    "suites": suites,
}


def table(rows: list[tuple[str, str]]) -> str:
    """Two columns: names and descriptions."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {about}".rstrip() for name, about in rows)


def _architecture(path: Path, source: str) -> tuple[str, str]:
    size = json.loads(path.read_text(encoding="utf-8")).get("vision_cfg", {}).get("image_size", 224)
    return path.stem, f"{source}, images of {size} pixels"


def _about(path: Path) -> str:
    """The first line of a YAML file where it is a comment, else nothing."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _first_line(thing: object) -> str:
    """The first line of a function's or class's docstring, or the value's own `about`."""
    text = inspect.getdoc(thing) if inspect.isroutine(thing) or inspect.isclass(thing) else getattr(thing, "about", "")
    return (text or "").split("\n", 1)[0]
