"""`cmapkd suite`: models side by side on all tasks of a suite, one table; finished scores are kept and reused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmapkd.config.schema import HOLDOUT, Config
from cmapkd.config.suite import HeadData, ScoredData, SuiteConfig
from cmapkd.config.tree import plain
from cmapkd.core import fsio
from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.log import say
from cmapkd.data.readers.tar.shards import is_pattern
from cmapkd.data.readers.text import neighbours
from cmapkd.evaluation.evaluate import Subject, open_scored, open_subject
from cmapkd.evaluation.train_head import train_head
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.table import TASKS, chosen_protocol

WIDEST = 20  # columns; beyond, each task gets a table of its own
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Entry:
    """A task on some data. key: its folder, and its name in the tables: `retrieval`, or `retrieval-flickr8k`."""

    task: str
    data: ScoredData | HeadData

    @property
    def key(self) -> str:
        return f"{self.task}-{self.data.name}" if self.data.name else self.task


def suite(models: Sequence[str], tasks: SuiteConfig, out: Path, config: Config | None = None) -> Path:
    """Score every model on every entry and write table.md, table.csv and scores.jsonl; returns the table's path.

    The first model is what the others are compared with, and the judge of CLIPScore.
    """
    if len(set(models)) < len(models):
        raise UsageError(f"suite: a model is named twice in {' '.join(models)}")
    entries = list(entries_of(tasks))
    for entry in entries:
        if isinstance(entry.data, ScoredData):
            chosen_protocol(entry.task, entry.data.protocol)
        require_places(entry)
    subjects = [open_subject(model, config) for model in models]
    found: dict[str, dict[str, Figures]] = {subject.name: {} for subject in subjects}
    lines = []
    for place, subject in enumerate(subjects):
        home = out / f"{place}-{Path(subject.name).name.replace(':', '-')}"
        _forget_another(home, subject, subjects[0])
        for entry in entries:
            facts = _kept(home / entry.key, entry) or _score(subject, entry, home / entry.key, subjects[0].encoder)
            say(facts["said"])
            found[subject.name][entry.key] = facts["metrics"]
            judge = {"judge": subjects[0].name} if TASKS[entry.task].judged else {}
            lines.append({"model": subject.name, "entry": entry.key, **judge, **facts})
    fsio.write_bytes(out / "scores.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    sources = [f"- {key}: {said}" for key, said in sources_of(lines).items()]
    text = "\n".join([*to_markdown(found, entries), *sources, ""])
    fsio.write_bytes(out / "table.md", text.encode())
    buffer = io.StringIO()
    header, body = table(found, entries)
    csv.writer(buffer).writerows([header, *body])
    fsio.write_bytes(out / "table.csv", buffer.getvalue().encode())
    print(text.rstrip(), flush=True)
    return out / "table.md"


def entries_of(tasks: SuiteConfig) -> Iterator[Entry]:
    """All entries in the order of the table."""
    for task in tasks.__struct_fields__:
        yield from (Entry(task, data) for data in getattr(tasks, task))


def require_places(entry: Entry) -> None:
    """Raise DataError, before anything is scored, for data that does not exist."""
    places = [entry.data.data] if isinstance(entry.data, ScoredData) else [entry.data.train, entry.data.val]
    for place in (place for place in places if place != HOLDOUT and not place.startswith("scenes:")):
        path = Path(place).expanduser()
        if not path.exists() and not is_pattern(place):
            raise DataError(f"suite {entry.key}: {path}: no such file or folder; check the path{neighbours(path)}")


def columns_of(task: str) -> dict[str, str]:
    """Metric → heading of the task's columns in the table."""
    return {name: metric.column for name, metric in TASKS[task].metrics.items() if metric.column}


def table(found: dict[str, dict[str, Figures]], entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """(header, one row per model); a figure that does not exist is an empty cell, never a number."""
    columns = [
        (entry.key, name, f"{heading} ({entry.data.name})" if entry.data.name else heading)
        for entry in entries
        for name, heading in columns_of(entry.task).items()
        if any(figures.get(entry.key, {}).get(name) is not None for figures in found.values())
    ]
    body = []
    for model, figures in found.items():
        values = [figures.get(key, {}).get(name) for key, name, _ in columns]
        body.append([model, *("" if value is None else f"{100 * value:.1f}" for value in values)])
    return ["model", *(heading for *_, heading in columns)], body


def to_markdown(found: dict[str, dict[str, Figures]], entries: Sequence[Entry]) -> Iterator[str]:
    """Lines of one table, or of one per task where it would be too wide; each ends with an empty line."""
    groups = [list(entries)]
    if len(table(found, entries)[0]) > WIDEST:
        groups = [group for task in TASKS if (group := [entry for entry in entries if entry.task == task])]
    for group in groups:
        header, body = table(found, group)
        for row in [header, ["---", *["---:"] * (len(header) - 1)], *body]:
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        yield ""


def sources_of(lines: Sequence[dict]) -> dict[str, str]:
    """Entry → protocol, split, counts and fingerprint, from the line of the first model."""
    found: dict[str, str] = {}
    for line in lines:
        said = line["said"].rpartition(": ")[0].replace(f" · checkpoint {line['model']}", "")
        found.setdefault(line["entry"], said + (f" · CLIPScore by {line['judge']}" if "judge" in line else ""))
    return found


def _forget_another(home: Path, subject: Subject, judge: Subject) -> None:
    """Delete the scores of another model in this folder, e.g. of an earlier training of the run, or of another judge."""
    path, facts = home / "model.json", {"model": subject.name, "weights": subject.weights, "judge": judge.weights}
    known = json.loads(path.read_text()) if path.is_file() else {}
    if known == facts:
        return
    home.mkdir(parents=True, exist_ok=True)
    same = {**known, "judge": judge.weights} == facts
    judged = [f"{task}*" for task, entry in TASKS.items() if entry.judged]
    for folder in judged if same else ["*"]:
        for old in home.glob(f"{folder}/scores.json"):
            old.unlink()
    fsio.write_json(path, facts)


def _score(subject: Subject, entry: Entry, folder: Path, judge: Encoder) -> dict:
    say(f"{subject.name}: {entry.key}")
    data = entry.data
    if isinstance(data, HeadData):
        train_head(entry.task, subject.tower, data, folder, judge)
        return json.loads((folder / "scores.json").read_text())
    score = subject.score(open_scored(data), entry.task, data.protocol)
    facts = {**score.to_json(), "said": score.line(), "data": plain(data)}
    folder.mkdir(parents=True, exist_ok=True)
    fsio.write_json(folder / "scores.json", facts)
    return facts


def _kept(folder: Path, entry: Entry) -> dict | None:
    """The finished scores of the same data, or None."""
    path = folder / "scores.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text())
    return facts if facts["data"] == plain(entry.data) else None
