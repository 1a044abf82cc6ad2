"""Names of methods, terms, policies, tasks and metrics, read from the package's source without importing it.

All of them are defined in files that import torch, which takes seconds; reading the source takes milliseconds. A method, a
term or a policy is a key of a dictionary literal (METHODS, TERMS, POLICIES), a task is `TASK = Task(...)` in
`tasks/NAME/task.py`, beside the dictionary literal METRICS.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cmapkd.core.errors import UsageError, did_you_mean

PACKAGE = Path(__file__).parents[1]
OWN_HEAD = "head/"  # metrics of a method's own classifier, which any labelled validation data give

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


@dataclass(frozen=True)
class TaskNames:
    """The literals of one `TASK = Task(...)`. given: all of its keywords. metrics: name → the literals of its Metric."""

    name: str
    place: int
    loss_name: str
    given: frozenset[str]
    metrics: dict[str, dict[str, Any]]


@cache
def task_names() -> tuple[TaskNames, ...]:
    """All tasks, in the order of lists and tables."""
    found = [_task_of(path) for path in (PACKAGE / "tasks").glob("*/task.py")]
    return tuple(sorted(found, key=lambda task: (task.place, task.name)))


def tasks(having: str = "name") -> tuple[str, ...]:
    """Names of the tasks whose entry has a keyword: `evaluate`, `probe`, `score` or `loss`; without one, of all."""
    return tuple(task.name for task in task_names() if having in task.given)


def task_losses() -> tuple[str, ...]:
    """Names of the task losses, as task.name takes them."""
    return tuple(task.loss_name for task in task_names() if "loss" in task.given)


def metrics() -> dict[str, str]:
    """Metric that eval.metric may name → its task: those of tasks that score a model as it is, where more is better."""
    return {
        logged_name(task.name, name): task.name
        for task in task_names()
        if "evaluate" in task.given
        for name, facts in task.metrics.items()
        if facts.get("more_is_better", True)
    }


def main_metric(task: str) -> str:
    """The metric of a task that eval.metric should name unless there is a reason for another one."""
    names = next(each.metrics for each in task_names() if each.name == task)
    return logged_name(task, next((name for name, facts in names.items() if facts.get("main")), next(iter(names))))


def logged_name(task: str, metric: str) -> str:
    """A metric's name in metrics.jsonl and eval.metric: `zeroshot/acc1`; retrieval's have no prefix."""
    return metric if task == "retrieval" or metric.startswith(OWN_HEAD) else f"{task}/{metric}"


def require_evaluated_task(task: str) -> None:
    """Raise UsageError for a task that does not exist, or that `cmapkd eval` cannot score."""
    known = tasks("evaluate")
    if task in known:
        return
    way_out = did_you_mean(task, known)
    if task in tasks("probe"):
        way_out = f"; {task} needs a head that is trained first: cmapkd train-head {task}, or cmapkd suite"
    raise UsageError(f"task '{task}' does not exist; there are: {', '.join(known)}{way_out}")


def _task_of(path: Path) -> TaskNames:
    values = dict(_assigned(ast.parse(path.read_text(encoding="utf-8"))))
    task, table = values["TASK"], values["METRICS"]
    assert isinstance(task, ast.Call) and isinstance(table, ast.Dict), f"{path}: TASK or METRICS is no literal"
    facts = _literals(task)
    names = {key.value: _literals(value) for key, value in zip(table.keys, table.values, strict=True)}  # type: ignore[union-attr]
    given = frozenset(keyword.arg for keyword in task.keywords if keyword.arg)
    return TaskNames(facts["name"], facts.get("place", 100), facts.get("loss_name", facts["name"]), given, names)


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """(name, value) of the assignments of a file."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _literals(call: ast.expr) -> dict[str, Any]:
    """Keywords of a call whose value is a constant."""
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return {each.arg: each.value.value for each in keywords if each.arg and isinstance(each.value, ast.Constant)}
