"""Between a section and the plain tree of a YAML or JSON file. Imports no torch."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from cmapkd.config.section import Section

Given = TypeVar("Given", bound=Section)


def read(kind: type[Given], tree: Any, where: str) -> Given:
    """The section that a tree holds. Raises UsageError: `where` and what is wrong, a line for each thing."""
    try:
        return msgspec.convert(tree, kind, dec_hook=lambda path, text: path(text))
    except msgspec.ValidationError:  # it names one thing only, or refuses a number that merely stands in quotes
        from cmapkd.config.explain import read_key_by_key

        return read_key_by_key(kind, tree, where)


def plain(section: Section) -> dict[str, Any]:
    """Every key, defaults included, as what YAML and JSON can hold: a path is text."""
    return msgspec.to_builtins(section, enc_hook=str)
