"""Headed: a trained head with its figures and results, and the folder that keeps it beside its tower."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cmapkd.core import fsio
from cmapkd.data.boxes import Boxes
from cmapkd.tasks.captioning.decoder import Captioner
from cmapkd.tasks.detection.average_precision import Precision
from cmapkd.tasks.detection.detector import Detector
from cmapkd.tasks.score import Score
from cmapkd.tasks.vqa.accuracy import results_of
from cmapkd.tasks.vqa.head import Vocabulary
from cmapkd.towers.dual import Tower

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Headed:
    """A trained head. metrics: fractions, None where a figure does not exist; results: for a challenge server or tool.

    words: what the weights alone do not say: the answers of a VQA head, the tokens of a captioner, the classes.
    Without data to score on, metrics, results and `said` are empty; a task without a head has none.
    """

    head: nn.Module | None
    metrics: Figures = field(default_factory=dict)
    results: Sequence[Mapping[str, Any]] = ()
    said: str = ""
    words: dict[str, Any] = field(default_factory=dict)


def vqa_words(vocabulary: Vocabulary) -> dict[str, Any]:
    return {"answers": list(vocabulary.answers)}


def detection_words(boxes: Boxes) -> dict[str, Any]:
    return {"classes": {str(key): name for key, name in boxes.categories.items()}}


def captioning_words(captioner: Captioner) -> dict[str, Any]:
    lexicon = captioner.lexicon
    return {"tokens": torch.as_tensor(lexicon.known).tolist(), "end": int(lexicon.end), "longest": captioner.longest}


def headed_vqa(head: nn.Module, vocabulary: Vocabulary, score: Score, answers: dict[int, str]) -> Headed:
    return Headed(head, dict(score.metrics), results_of(answers), score.line(), vqa_words(vocabulary))


def headed_detection(
    detector: Detector, train: Boxes, val: Boxes, precision: Precision, results: list[dict[str, Any]], notes: str
) -> Headed:
    figures = {name: value for name, value in precision.to_json().items() if name != "per_class"}
    shown = ", ".join(f"{name} {'none' if v is None else f'{100 * v:.2f} %'}" for name, v in figures.items())
    counts = f"{len(val)} images · {val.n_boxes} boxes · data {val.fingerprint()[:12]}"
    said = f"detection (COCO AP of a head) · {val.name} · {counts} · {len(train)} training images; {notes}"
    return Headed(detector, figures, results, f"{said}: {shown}", detection_words(train))


def headed_captioning(captioner: Captioner, score: Score, results: list[dict[str, Any]]) -> Headed:
    return Headed(captioner, dict(score.metrics), results, score.line(), captioning_words(captioner))


def write_head(task: str, done: Headed, data: Mapping[str, Any], out: Path) -> None:
    """head.safetensors and head.json; results.json and, last, scores.json where it was scored. Raises DiskError.

    data: what it was trained and scored on, as plain values. The tower's own tensors are not in it.
    """
    assert done.head is not None, "a task without a head leaves none"
    out.mkdir(parents=True, exist_ok=True)
    fsio.write_bytes(out / "head.safetensors", save(own_tensors(done.head), metadata={"format": "pt", "task": task}))
    fsio.write_json(out / "head.json", {"task": task, **done.words})
    if done.metrics:
        fsio.write_bytes(out / "results.json", json.dumps(done.results).encode())
        facts = {"task": task, "metrics": done.metrics, "said": done.said, "data": dict(data)}
        fsio.write_json(out / "scores.json", facts)


def own_tensors(head: nn.Module) -> dict[str, Tensor]:
    """The head's state on the CPU, without that of a tower inside it."""
    inside = tuple(f"{name}." for name, module in head.named_modules() if isinstance(module, Tower))
    state = {name: tensor for name, tensor in head.state_dict().items() if not name.startswith(inside)}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
