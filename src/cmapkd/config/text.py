"""YAML text to a plain tree and back, with limits on size, depth and number of values. Imports no torch."""

from __future__ import annotations

import re
from typing import Any

import yaml

from cmapkd.core.errors import UsageError

MAX_BYTES, MAX_DEPTH, MAX_NODES = 1_000_000, 20, 10_000

# Scalars of YAML 1.2: `1e-3` is a number; `no`, `12:30` and `2026-01-31` are text.
NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?$")
WORD = re.compile(r"|[-+.]*[\w~][\w.+~-]*")  # an override that may be a number, true or null
SCALARS = (
    ("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][\d_]*)$"), "-+0123456789"),
    ("tag:yaml.org,2002:float", NUMBER, "-+.0123456789"),
    ("tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
)


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that refuses aliases, tags, duplicate keys and keys that are not words, and enforces the limits."""

    yaml_implicit_resolvers: dict[str, list] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.events.AliasEvent):
            raise _refusal(event, f"the alias *{event.anchor} is not allowed; write the value out")
        if getattr(event, "tag", None) not in (None, "!"):
            raise _refusal(event, f"the tag {event.tag} is not allowed; write a plain value")
        self.nodes += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _refusal(event, f"nested deeper than {MAX_DEPTH} levels")
        if self.nodes > MAX_NODES:
            raise _refusal(event, f"more than {MAX_NODES} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal(key, "a key must be a word")
            if key.value in seen:
                raise _refusal(key, f"key '{key.value}' occurs twice; keep one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes every string which this loader, or a YAML 1.1 loader, would read as something else."""


for _tag, _pattern, _first in SCALARS:
    _Loader.add_implicit_resolver(_tag, _pattern, list(_first))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def parse(text: str, where: str) -> dict[str, Any]:
    """The tree of a YAML mapping. Raises UsageError with the source `where` and the line."""
    if len(text.encode(errors="surrogateescape")) > MAX_BYTES:
        raise UsageError(f"config {where}: larger than {MAX_BYTES} bytes; a config is a few dozen lines")
    tree = _load(text, f"config {where}")
    if not isinstance(tree, dict):
        raise UsageError(f"config {where}: holds no keys; see `cmapkd init` for a start")
    return tree


def parse_value(text: str, where: str) -> Any:
    """The value of `key=text`: a number, true, null, `[…]`, `{…}` or `'…'` as in YAML, anything else as plain text."""
    quoted = len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]
    if quoted or text[:1] in ("[", "{") or WORD.fullmatch(text):
        return _load(text, where)
    return text


def render(tree: dict[str, Any]) -> str:
    """YAML that `parse` reads back equal."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _load(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise UsageError(f"{where}{line}: {error.problem or 'not valid YAML'}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{where}: not valid YAML: {' '.join(str(error).split())[:200]}") from None


def _refusal(at: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, at.start_mark)
