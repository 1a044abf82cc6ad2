"""Names of all methods, terms and policies, read from the package's source. Imports no torch.

Methods, terms and policies are defined in files that import torch. Each name there is a key of a dictionary literal
(METHODS, TERMS, POLICIES) at the top level of a file; parsing those literals takes a few milliseconds, importing torch
takes seconds.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# The line that assigns the table, and all lines after it that are indented, closing or empty.
STATEMENT = r"^{table}\b[^\n]*=[^\n]*(?:\n(?:[ \t)}}\]][^\n]*)?)*"


def methods() -> tuple[str, ...]:
    """Names of all methods: `scratch` first, the others in alphabetical order."""
    return tuple(sorted(keys_of("methods", "METHODS"), key=lambda name: (name != "scratch", name)))


def terms() -> tuple[str, ...]:
    """Names of all terms."""
    return keys_of("methods", "TERMS")


def policies() -> tuple[str, ...]:
    """Names of all policies."""
    return keys_of("policy", "POLICIES")


@cache
def keys_of(folder: str, table: str) -> tuple[str, ...]:
    """Keys of every dictionary literal named `table` at the top level of a file in `cmapkd/folder`, in file order."""
    statement = re.compile(STATEMENT.format(table=table), re.MULTILINE)
    found: list[str] = []
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        for match in statement.finditer(path.read_text(encoding="utf-8")):
            value = getattr(ast.parse(match[0]).body[0], "value", None)
            if isinstance(value, ast.Dict):
                found += [str(key.value) for key in value.keys if isinstance(key, ast.Constant)]
    return tuple(found)
