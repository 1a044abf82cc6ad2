"""Every family teaches and learns from others: two steps of a run through the front door.

By default each family meets a few others on both sides, with one method a pair. `pytest tests/test_pairs.py --all-pairs` runs the
whole matrix of teachers and students with all three methods.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from cmapkd.config.load import check
from cmapkd.core.errors import UsageError
from cmapkd.train.runs.distill import distill
from families import hugging_face, one_sided, open_clip

TOYS = open_clip.FAMILIES | hugging_face.FAMILIES | one_sided.FAMILIES
MET = ("open_clip-vit", "open_clip-rn", "open_clip-siglip", "hf-vit-bert", "test_vit")
METHODS = ("cmapkd", "clip_kd", "fitnet")
ONE_SIDED = frozenset(one_sided.FAMILIES)
NO_CLASS = ("hf-altclip",)  # teachers whose text tower no library opens beside another image tower


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, str]:
    """The name in a config of each family's toy model."""
    folder = tmp_path_factory.mktemp("families")
    return {name: make(folder / name) for name, make in TOYS.items()}


def pairs(teacher: str, whole: bool) -> list[tuple[str, str]]:
    """(student, method) of each run under a teacher."""
    if whole:
        return [(student, method) for student in TOYS for method in METHODS]
    turn = list(TOYS).index(teacher)
    met = TOYS if teacher in MET else MET
    return [(student, METHODS[(turn + k) % len(METHODS)]) for k, student in enumerate(met)]


def run(teacher: str, student: str, method: str, folder: Path) -> list[dict]:
    """The rows of the log of two steps."""
    config = check(
        {
            "run": str(folder), "method": method, "data": {"train": "scenes:16:train", "views": 1},
            "teacher": {"model": teacher}, "student": {"model": student},
            "train": {"steps": 2, "batch": 8, "device": "cpu", "threads": 1},
            "cache": {"rank": 16, "calibration_samples": 16}, "eval": {"every": None},
        },
        "pair",
    )  # fmt: skip
    distill(config)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def no_library(teacher: str, student: str) -> bool:
    """Whether no library opens the student that such a pair gives, so that it is refused."""
    if teacher in NO_CLASS:
        return student in ONE_SIDED
    if student == "torchvision":  # beside a text tower of transformers
        return teacher.startswith("hf-") and teacher not in ("hf-clip", "hf-vision")
    return student == "hf-vision" and teacher in ONE_SIDED


@pytest.mark.parametrize("teacher", TOYS)
def test_a_family_teaches_every_other(teacher, models, tmp_path, request):
    wrong = []
    for student, method in pairs(teacher, request.config.getoption("--all-pairs")):
        folder = tmp_path / f"{student}-{method}"
        try:
            rows = run(models[teacher], models[student], method, folder)
        except UsageError as error:
            one_line = "\n" not in str(error)
            early = not list(folder.glob("checkpoints/*"))
            if not (no_library(teacher, student) and one_line and early):
                wrong.append(f"{student} by {method}: refused: {error}")
        except Exception as error:
            wrong.append(f"{student} by {method}: {type(error).__name__}: {error}")
        else:
            trained = [row for row in rows if row["kind"] == "train"]
            if len(trained) != 2 or not all(math.isfinite(row["loss"]) for row in trained):
                wrong.append(f"{student} by {method}: {len(trained)} rows, {[row['loss'] for row in trained]}")
        shutil.rmtree(folder, ignore_errors=True)
    assert not wrong, "\n".join(wrong)
