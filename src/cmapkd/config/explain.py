"""One line for each thing wrong in a config: path of the key, value, rule, nearest right name. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from cmapkd.config.schema import Config
from cmapkd.core.errors import did_you_mean

SECTION = "must be a section, with its keys indented below it"
RULES = {
    "model_type": SECTION,
    "model_attributes_type": SECTION,
    "dict_type": SECTION,
    "string_type": "must be text; a number that is meant as text goes in quotes",
    "path_type": "must be a path; a number that is meant as a path goes in quotes",
    "tuple_type": "must be a list, or a name where names are allowed",
}
SHOWN = 80  # characters of a wrong value that a line repeats


def explain(error: ValidationError, where: str) -> str:
    """All errors, one a line. Of a value that may be of several kinds, only the kind it comes nearest to is told."""
    items: dict[str, Any] = {}
    for item in sorted(error.errors(), key=lambda e: -len(e["loc"])):
        path = _path(item["loc"])
        if not any(known.startswith(path + ".") for known in items):
            items.setdefault(path, item)
    return "\n".join(f"config {where}: {_line(path, items[path])}" for path in sorted(items))


def known_paths() -> dict[str, None]:
    """Every dotted key that a config may hold, in the schema's order; list items are left out."""
    return dict.fromkeys(_walk(Config, ""))


def _line(path: str, item: Any) -> str:
    kind, value = item["type"], item["input"]
    path = path.removesuffix(".[key]")
    if kind == "extra_forbidden":
        return f"unknown key '{path}'{_nearest(path)}"
    if kind == "missing":
        return f"key '{path}' is missing; it has no default, so write it"
    rule = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if kind in RULES:
        rule = RULES[kind]
    where = path or "the whole file"
    if kind == "value_error" and isinstance(value, dict):
        return f"{where}: {rule}"
    near = did_you_mean(str(value), _choices(item), 0.5)
    return f"{where} is {_short(value)}; {rule[0].lower()}{rule[1:]}{near}"


def _nearest(path: str) -> str:
    """The right name for a wrong one: in the same section, else the same word in another section."""
    section, _, leaf = path.rpartition(".")
    plain = ".".join(part for part in section.split(".") if part and not part.isdigit())
    siblings = [p for p in known_paths() if p.rpartition(".")[0] == plain]
    elsewhere = [p for p in known_paths() if p.rpartition(".")[2] == leaf]
    names = [p.rpartition(".")[2] for p in siblings]
    here = [f"{section}.{name}".lstrip(".") for name in difflib.get_close_matches(leaf, names, 1, 0.6)]
    typo = difflib.get_close_matches(leaf, names, 1, 0.75)
    near = here if typo else elsewhere or here
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f"; known here: {', '.join(names)}" if names else ""


def _walk(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for below in _models(field.annotation):
            yield from _walk(below, f"{prefix}{name}.")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _path(location: Sequence[int | str]) -> str:
    """The dotted path without the names that pydantic gives to the kinds of a union."""
    parts = [str(part) for part in location]
    return ".".join(part for part in parts if part != "str" and not part.startswith(("tuple[", "function-")))


def _choices(item: Any) -> list[str]:
    """The allowed words of a rule that lists them."""
    if item["type"] != "literal_error":
        return []
    return [word.strip("' ") for word in item["ctx"]["expected"].replace(" or ", ", ").split(",")]


def _short(value: object) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
