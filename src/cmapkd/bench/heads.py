"""`cmapkd train-head`: a head on a frozen tower for VQA, detection or captioning, its figures and its result file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from cmapkd.config.schema import DataConfig
from cmapkd.config.suite import HeadData
from cmapkd.core import fsio
from cmapkd.data.readers import open_boxes, open_questions, open_samples
from cmapkd.models.tower import Tower
from cmapkd.tasks import captioning, detection, vqa
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.frozen import Extraction, Fitting


@dataclass(frozen=True)
class Headed:
    """A trained head. metrics: fractions, None where a figure does not exist; results: for a challenge server or tool.

    words: what the weights alone do not say: the answers of a VQA head, the tokens of a captioner, the classes.
    """

    head: nn.Module
    metrics: dict[str, float | None]
    results: list[dict[str, Any]]
    said: str
    words: dict[str, Any] = field(default_factory=dict)


def train_vqa(tower: Tower, data: HeadData, judge: Encoder | None) -> Headed:
    settings = vqa.Settings(seed=data.seed, fitting=_fitting(data))
    train, val = (open_questions(where, _data(data, where), split) for where, split in _both(data))
    done = vqa.train_vqa(tower, train, val, settings)
    rows = [{"question_id": key, "answer": answer} for key, answer in done.answers.items()]
    words = {"answers": list(done.vocabulary.answers)}
    return Headed(done.head, dict(done.score.metrics), rows, done.score.line(), words)


def train_detection(tower: Tower, data: HeadData, judge: Encoder | None) -> Headed:
    settings = detection.Settings(epochs=data.epochs, batch=data.batch, lr=data.lr, seed=data.seed)
    train, val = (open_boxes(where, _data(data, where), split) for where, split in _both(data))
    done = detection.train_detector(tower, train, val, settings)
    figures = {name: value for name, value in done.precision.to_json().items() if name != "per_class"}
    said = ", ".join(f"{name} {'none' if v is None else f'{100 * v:.2f} %'}" for name, v in figures.items())
    words = {"classes": {str(key): name for key, name in train.categories.items()}}
    return Headed(
        done.detector, figures, done.results, f"detection · {val.name} · {'; '.join(done.notes)}: {said}", words
    )


def train_captioning(tower: Tower, data: HeadData, judge: Encoder | None) -> Headed:
    settings = captioning.Settings(
        seed=data.seed, fitting=_fitting(data), extraction=Extraction(level="P4", bad_budget=0.001)
    )
    train, val = (open_samples(where, _data(data, where), split) for where, split in _both(data))
    done = captioning.train_captioner(tower, train, val, settings, judge)
    lexicon = done.captioner.lexicon
    words = {"tokens": torch.as_tensor(lexicon.known).tolist(), "end": int(lexicon.end), "longest": settings.longest}
    return Headed(done.captioner, dict(done.score.metrics), done.results, done.score.line(), words)


HEADS: dict[str, Callable[[Tower, HeadData, Encoder | None], Headed]] = {
    "vqa": train_vqa,
    "detection": train_detection,
    "captioning": train_captioning,
}


def train_head(task: str, tower: Tower, data: HeadData, out: Path, judge: Encoder | None = None) -> Headed:
    """Train, score, and write head.safetensors, head.json, results.json and, last, scores.json into `out`."""
    done = HEADS[task](tower, data, judge)
    out.mkdir(parents=True, exist_ok=True)
    own = {k: v.detach().cpu().contiguous().clone() for k, v in done.head.state_dict().items()}
    fsio.write_bytes(out / "head.safetensors", save(own, metadata={"format": "pt", "task": task}))
    fsio.write_bytes(out / "results.json", json.dumps(done.results).encode())
    fsio.write_json(out / "head.json", {"task": task, **done.words})
    facts = {"task": task, "metrics": done.metrics, "said": done.said, "data": json.loads(data.model_dump_json())}
    fsio.write_json(out / "scores.json", facts)
    return done


def _fitting(data: HeadData) -> Fitting:
    return Fitting(**{**asdict(Fitting()), "epochs": data.epochs, "batch": data.batch, "lr": data.lr})


def _data(data: HeadData, where: str) -> DataConfig:
    return DataConfig(train=where, images=data.images)


def _both(data: HeadData) -> tuple[tuple[str, str | None], tuple[str, str | None]]:
    return (data.train, data.train_split), (data.val, data.val_split)
