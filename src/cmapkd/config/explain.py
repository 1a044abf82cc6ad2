"""Config errors: reads a tree key by key and reports every error in it, one line each. Imports no torch."""

from __future__ import annotations

import difflib
import operator
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from msgspec import Meta, structs

from cmapkd.config.schema import Config
from cmapkd.config.section import Section
from cmapkd.core.errors import UsageError, did_you_mean

SECTION = "must be a section, with its keys indented below it"
LIST = "must be a list, or a name where names are allowed"
QUOTES = "a number that is meant as {} goes in quotes"
BOUNDS = {
    "le": (operator.le, "less than or equal to"),
    "lt": (operator.lt, "less than"),
    "ge": (operator.ge, "greater than or equal to"),
    "gt": (operator.gt, "greater than"),
}
WORDS = {True: ("true", "yes", "y", "on", "t", "1"), False: ("false", "no", "n", "off", "f", "0")}
NAMES = {int: "integer", float: "number"}
SHOWN = 80  # characters of a wrong value shown in an error

Wrong = dict[str, str]  # dotted path of a key → the error there
Given = TypeVar("Given", bound=Section)


def read_key_by_key(kind: type[Given], tree: Any, where: str) -> Given:
    """The section that a tree holds; "7" is accepted for 7 and yes for true. Raises UsageError, a line for each error."""
    wrong: Wrong = {}
    section = _read(kind, tree, "", wrong)
    if wrong:
        raise UsageError("\n".join(f"{where}: {wrong[path]}" for path in sorted(wrong)))
    return section


def known_paths() -> dict[str, None]:
    """Every dotted key of the config schema, in order; items of lists have no key."""
    return dict.fromkeys(_walk(Config, ""))


def _read(kind: Any, value: Any, path: str, wrong: Wrong) -> Any:
    """The value converted to `kind`. Errors are added to `wrong`; the return value is then meaningless."""
    origin, parts = get_origin(kind), get_args(kind)
    try:
        if isinstance(kind, type) and issubclass(kind, Section):
            return _section(kind, value, path, wrong)
        if origin in (Union, UnionType):
            return _nearest_kind(parts, value, path, wrong)
        if origin is dict:
            return _table(parts, value, path, wrong)
        if origin is tuple:
            return _list(parts, value, path, wrong)
        return _leaf(kind, value)
    except ValueError as error:
        shown = "empty" if value is None else repr(value)
        shown = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}…"
        wrong[path] = f"{path or 'the whole file'} is {shown}; {error}"


def _section(kind: type[Section], value: Any, path: str, wrong: Wrong) -> Section | None:
    """The section of a mapping: first its keys, then, if all are right, the section's own rule."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(SECTION)
    found: Wrong = {}
    given: dict[str, Any] = {}
    known = list(kind.__struct_fields__)
    for name in [str(name) for name in value if name not in known]:
        found[_join(path, name)] = _unknown(path, name, known)
    for field in structs.fields(kind):
        at = _join(path, field.name)
        if field.name in value:
            given[field.name] = _read(field.type, value[field.name], at, found)
        elif field.required:
            found[at] = f"key '{at}' is missing; it has no default, so write it"
    wrong |= found
    try:
        return None if found else kind(**given)
    except ValueError as error:
        wrong[path] = f"{path}: {error}".removeprefix(": ")


def _nearest_kind(kinds: tuple[Any, ...], value: Any, path: str, wrong: Wrong) -> Any:
    """The value as one of several kinds; if it fits none, only the errors of the kind it comes nearest to are reported."""
    if value is None and NoneType in kinds or isinstance(value, str) and str in kinds:
        return value
    tried: list[Wrong] = []
    for kind in kinds:
        if kind is not NoneType:
            read = _read(kind, value, path, found := {})
            if not found:
                return read
            tried.append(found)
    wrong |= max(tried, key=lambda found: max(at.count(".") for at in found))
    return None


def _table(kinds: tuple[Any, ...], value: Any, path: str, wrong: Wrong) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(SECTION)
    read = {}
    for key, item in value.items():
        _read(kinds[0], key, at := _join(path, str(key)), wrong)
        if at not in wrong:
            read[key] = _read(kinds[1], item, at, wrong)
    return read


def _list(kinds: tuple[Any, ...], value: Any, path: str, wrong: Wrong) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError(LIST)
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ValueError(f"must be a list of {len(kinds)} values")
    return tuple(
        _read(kind, item, _join(path, str(i)), wrong) for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _leaf(kind: Any, value: Any) -> Any:
    """A plain value converted to `kind`. Raises ValueError with the rule that it breaks."""
    if get_origin(kind) is Annotated:
        return _bounded(_leaf(kind.__origin__, value), kind.__metadata__)
    if get_origin(kind) is Literal:
        return _word(get_args(kind), value)
    if kind is bool:
        return _switch(value)
    if kind in NAMES:
        return _number(kind, value)
    if kind is Path and not isinstance(value, str | os.PathLike):
        raise ValueError(f"must be a path; {QUOTES.format('a path')}")
    if kind is str and not isinstance(value, str):
        raise ValueError(f"must be text; {QUOTES.format('text')}")
    return kind(value)


def _bounded(value: Any, rules: tuple[Meta, ...]) -> Any:
    for rule in rules:
        for name, (holds, words) in BOUNDS.items():
            bound = getattr(rule, name)
            if bound is not None and not holds(value, bound):
                raise ValueError(f"must be {words} {bound:g}")
        if rule.pattern is not None and not re.search(rule.pattern, value):
            raise ValueError(f"string should match pattern '{rule.pattern}'")
    return value


def _word(words: tuple[str, ...], value: Any) -> str:
    if value in words:
        return value
    *others, last = map(repr, words)
    listed = f"{', '.join(others)} or {last}" if others else last
    raise ValueError(f"must be {listed}{did_you_mean(str(value), words, 0.5)}")


def _switch(value: Any) -> bool:
    for meant, words in WORDS.items():
        if value == meant or isinstance(value, str) and value.lower() in words:
            return meant
    unread = ", unable to interpret input" if isinstance(value, str | int) else ""
    raise ValueError(f"must be a valid boolean{unread}")


def _number(kind: type[int | float], value: Any) -> int | float:
    name = NAMES[kind]
    if not isinstance(value, str | int | float):
        raise ValueError(f"must be a valid {name}")
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        unread = f"must be a valid {name}, unable to parse string as {'an' if kind is int else 'a'} {name}"
        raise ValueError(unread if isinstance(value, str) else "must be a finite number") from None
    if kind is int and number != value and not isinstance(value, str):
        raise ValueError("must be a valid integer, got a number with a fractional part")
    return number


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unknown(path: str, name: str, known: list[str]) -> str:
    """The error line of an unknown key, with the nearest known key of its section or the same key of another section."""
    here = [_join(path, near) for near in difflib.get_close_matches(name, known, 1, 0.6)]
    typo = difflib.get_close_matches(name, known, 1, 0.75)
    elsewhere = [other for other in known_paths() if other.rpartition(".")[2] == name]
    near = here if typo else elsewhere or here
    hint = f" (did you mean '{near[0]}'?)" if near else f"; known here: {', '.join(known)}"
    return f"unknown key '{_join(path, name)}'{hint}"


def _walk(kind: type[Section], prefix: str) -> Iterator[str]:
    for field in structs.fields(kind):
        yield prefix + field.name
        for below in _sections(field.type):
            yield from _walk(below, f"{prefix}{field.name}.")


def _sections(kind: Any) -> list[type[Section]]:
    if isinstance(kind, type) and issubclass(kind, Section):
        return [kind]
    return [section for part in get_args(kind) for section in _sections(part)]
