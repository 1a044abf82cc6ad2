"""`cmapkd suite`: models side by side on all tasks of a suite, one table; what is finished is kept and read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from cmapkd.bench.evaluate import open_model
from cmapkd.bench.heads import HEADS, train_head
from cmapkd.config.schema import Config, DataConfig
from cmapkd.config.suite import ScoredData, SuiteConfig
from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.data.readers import open_samples
from cmapkd.models.tower import Tower
from cmapkd.tasks.run import evaluate

SCORED = ("retrieval", "zeroshot")
# Task → figures of the table and their headings, in the order that papers print them.
TABLE: dict[str, dict[str, str]] = {
    "retrieval": {"image_retrieval_recall@1": "T→I R@1", "text_retrieval_recall@1": "I→T R@1", "mean_recall@1": "mean R@1"},
    "zeroshot": {"acc1": "zero-shot top-1", "acc5": "top-5"},
    "vqa": {"accuracy": "VQA"},
    "detection": {"mAP": "mAP", "AP50": "AP50"},
    "captioning": {"bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr", "clip_score": "CLIPScore"},
}  # fmt: skip


def suite(models: Sequence[str], tasks: SuiteConfig, out: Path, config: Config | None = None) -> Path:
    """Score every model on every task and write table.md, table.csv and scores.jsonl; returns the table's path.

    The first model is what the others are compared with, and the judge of CLIPScore.
    """
    if len(set(models)) < len(models):
        raise UsageError(f"suite: a model is named twice in {' '.join(models)}")
    towers = {model: open_model(model, config) for model in models}
    judge = next(iter(towers.values()))
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    lines = []
    for place, (model, tower) in enumerate(towers.items()):
        for task in SuiteConfig.model_fields:
            data = getattr(tasks, task)
            if data is None:
                continue
            folder = out / f"{place}-{Path(model).name.replace(':', '-')}" / task
            facts = _kept(folder, data.model_dump_json()) or _score(model, task, tower, data, folder, judge)
            say(facts["said"])
            found.setdefault(model, {})[task] = facts["metrics"]
            lines.append({"model": model, **facts})
    fsio.write_bytes(out / "scores.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    header, body = table(found)
    text = "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *body]) + "\n"
    fsio.write_bytes(out / "table.md", text.encode())
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *body])
    fsio.write_bytes(out / "table.csv", buffer.getvalue().encode())
    print(text.rstrip(), flush=True)
    return out / "table.md"


def table(found: dict[str, dict[str, dict[str, float | None]]]) -> tuple[list[str], list[list[str]]]:
    """(header, a row a model); a figure that does not exist is an empty cell, never a number."""
    columns = [
        (task, name, heading)
        for task, names in TABLE.items()
        for name, heading in names.items()
        if any(name in tasks.get(task, {}) for tasks in found.values())
    ]
    body = []
    for model, tasks in found.items():
        values = [tasks.get(task, {}).get(name) for task, name, _ in columns]
        body.append([model, *("" if value is None else f"{100 * value:.1f}" for value in values)])
    return ["model", *(heading for *_, heading in columns)], body


def _score(model: str, task: str, tower: Tower, data, folder: Path, judge: Tower) -> dict:  # noqa: ANN001
    say(f"{model}: {task}")
    if task in HEADS:
        train_head(task, tower, data, folder, judge)
        return json.loads((folder / "scores.json").read_text())
    assert isinstance(data, ScoredData)
    settings = DataConfig(train=data.data, images=data.images, classes=data.classes)
    score = evaluate(tower, open_samples(data.data, settings, data.split), task, checkpoint=model)
    facts = {"task": task, "metrics": score.metrics, "said": score.line(), "data": json.loads(data.model_dump_json())}
    folder.mkdir(parents=True, exist_ok=True)
    fsio.write_json(folder / "scores.json", facts)
    return facts


def _kept(folder: Path, data: str) -> dict | None:
    """The finished scores of the same data, or None."""
    path = folder / "scores.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text())
    return facts if facts["data"] == json.loads(data) else None
