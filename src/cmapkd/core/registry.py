"""Registries that grow by a file: dictionaries of one name, collected from all modules of a package."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from typing import Any


def collected(
    package: str, places: Iterable[str], table: str, first: Sequence[str] = (), prefix: str = ""
) -> dict[str, Any]:
    """The entries of the dictionary `table` of the modules in `package`, `first` ones first, then in the modules' order.

    prefix: only modules whose name begins with it are imported.

    Raises RuntimeError where two modules define one name.
    """
    found: dict[str, Any] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(places) if info.name.startswith(prefix)):
        for key, entry in getattr(importlib.import_module(f"{package}.{module}"), table, {}).items():
            if key in found:
                raise RuntimeError(f"{package}: {table} '{key}' is defined twice")
            found[key] = entry
    return {key: found[key] for key in (*first, *(key for key in found if key not in first))}
