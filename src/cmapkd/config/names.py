"""Names that a config may use for methods, terms and policies, read from the package's source without importing it.

A method, a term or a policy is defined in a file that imports torch. Its name stands there as a key of a dictionary literal
(METHODS, TERMS, POLICIES); reading the keys takes a few milliseconds, importing torch takes seconds.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@cache
def keys_of(folder: str, table: str) -> tuple[str, ...]:
    """Keys of every dictionary literal called `table` in the files of `cmapkd/folder`, in the files' order."""
    found: list[str] = []
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            named = any(isinstance(target, ast.Name) and target.id == table for target in targets)
            if named and isinstance(value := getattr(node, "value", None), ast.Dict):
                found += [str(key.value) for key in value.keys if isinstance(key, ast.Constant)]
    return tuple(found)


def methods() -> tuple[str, ...]:
    """Names of all methods."""
    return keys_of("methods", "METHODS")


def terms() -> tuple[str, ...]:
    """Names of all terms."""
    return keys_of("methods", "TERMS")


def policies() -> tuple[str, ...]:
    """Names of all policies."""
    return keys_of("policy", "POLICIES")
