"""Conversion between sections and the plain trees of YAML and JSON files. Imports no torch."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from cmapkd.config.section import Section

Given = TypeVar("Given", bound=Section)


def read(kind: type[Given], tree: Any, where: str) -> Given:
    """The section that a tree holds; `where` is its source. Raises UsageError, a line for each error."""
    try:
        return msgspec.convert(tree, kind, dec_hook=lambda path, text: path(text))
    except msgspec.ValidationError:  # msgspec reports only the first error, and refuses a number in quotes
        from cmapkd.config.explain import read_key_by_key

        return read_key_by_key(kind, tree, where)


def plain(section: Section) -> dict[str, Any]:
    """The section as a plain tree of every key, defaults included; paths become text."""
    return msgspec.to_builtins(section, enc_hook=str)
