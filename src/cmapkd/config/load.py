"""Loading a Config from a YAML file or a recipe's name, and dumping it. Imports no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cmapkd.config.check_names import name_errors
from cmapkd.config.schema import Config
from cmapkd.config.text import MAX_BYTES, parse, parse_value, render
from cmapkd.config.tree import plain, read
from cmapkd.core.errors import UsageError, did_you_mean

RECIPES = Path(__file__).parent.parent / "recipes"


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """The config of a YAML file or a recipe, with `section.key=value` overrides applied.

    Raises UsageError, a line for each error.
    """
    tree = parse(_read(path), str(path))
    for override in overrides or []:
        _override(tree, override)
    return check(tree, str(path))


def check(tree: dict[str, Any], where: str) -> Config:
    """The Config of a parsed tree, with every name in it checked; `where` is its source, for errors.

    Raises UsageError, a line for each error.
    """
    config = read(Config, tree, f"config {where}")
    for key, value in _leaves(plain(config), ""):
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"config {where}: {key} is {value}; it must be a finite number")
    if wrong := [f"config {where}: {line}" for line in name_errors(config)]:
        raise UsageError("\n".join(wrong))
    return config


def dump_config(config: Config) -> str:
    """The config as YAML with every key, defaults included; loading it gives the same Config."""
    return render(plain(config))


def recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _read(path: Path) -> str:
    recipe = RECIPES / f"{path}.yaml"
    if not path.exists() and path.parent == Path() and recipe.is_file():
        path = recipe
    if path.is_dir():
        raise UsageError(f"config {path}: is a folder; give the YAML file in it")
    if not path.is_file():
        hint = did_you_mean(path.stem, recipes())
        names = ", ".join(recipes()) or "none"
        raise UsageError(f"config {path}: no such file, and no recipe of that name; recipes: {names}{hint}")
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_BYTES + 1)  # one more than the limit, so that `parse` reports it
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"config {path}: not readable as UTF-8 text ({type(error).__name__})") from None


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one dotted key in place, creating missing or empty sections on the way."""
    key, sign, value = override.partition("=")
    *sections, leaf = key.split(".")
    if not sign or not leaf or not all(sections):
        raise UsageError(f"override '{override}' is not key=value, such as train.steps=100")
    node = tree
    for section in sections:
        child = node.get(section)
        if child is None:
            child = node[section] = {}
        if not isinstance(child, dict):
            raise UsageError(f"override '{override}': '{section}' holds a value, not a section; set {section}=… whole")
        node = child
    node[leaf] = parse_value(value, f"override '{override}'")


def _leaves(node: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in _leaves(value, f"{path}.{key}" if path else str(key))]
    if isinstance(node, list | tuple):
        return [leaf for index, value in enumerate(node) for leaf in _leaves(value, f"{path}.{index}")]
    return [(path, node)]
