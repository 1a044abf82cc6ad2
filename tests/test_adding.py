"""Adding a method, a policy, a task and a tower family costs one file or folder each, as CONTRIBUTING.md says; nothing else is edited."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "cmapkd"

METHOD = '''"""`toy`: cosine mimicry of the teacher's image embeddings."""

from cmapkd.methods.method import Method
from cmapkd.methods.term import Term


class Cosine(Term):
    """1 − cos of the student's and the teacher's image embeddings."""

    reads = frozenset({"teacher_image"})

    def forward(self, view):
        import torch.nn.functional as F

        return (1 - F.cosine_similarity(view.student.projected.image, view.teacher.final.image)).mean()


TERMS = {"cosine": Cosine}
METHODS = {"toy": Method({"align": 1.0, "cosine": 2.0}, about="cosine mimicry")}
'''
POLICY = '''"""Halves: the image levels at half weight in the first half of a run."""

from cmapkd.policy.base import Policy


class Halves(Policy):
    """Uniform, in another way."""

    def forward(self, teacher, progress):
        return teacher.final.image.new_ones(len(teacher.final.image), 8), None


POLICIES = {"halves": Halves}
'''
TASK = '''"""The task entry of counting."""

from cmapkd.tasks.task import Metric, Task

METRICS = {"accuracy": Metric("share of images counted right", "counting", main=True)}
TASK = Task(name="counting", about="accuracy of counting", metrics=METRICS, protocols={"exact": "equal numbers"},
            evaluate=lambda *given: None)
'''
TOWER = '''"""MeanImage: a tower that knows the mean colour."""


class MeanColour:
    """Stands for a family of its own."""


def mean_image(visual, size, mean, std):
    """The adapter, None for any other image tower."""
    return MeanColour() if type(visual).__name__ == "MeanColourTower" else None


IMAGE_TOWERS = {"mean": mean_image}
'''
ADDED = {
    "methods/toy.py": METHOD, "policy/halves.py": POLICY, "tasks/counting/task.py": TASK,
    "tasks/counting/__init__.py": '"""Counting."""\n', "towers/families/image_mean.py": TOWER,
}  # fmt: skip
CHECK = """
import json, sys
from cmapkd.config.load import check
tree = {"run": "r", "method": "toy", "data": {"train": "scenes:8:train"}, "student": {"model": "cmapkd-small-64"},
        "teacher": {"model": "shipped:scenes-teacher"}, "policy": {"name": "halves"}, "weights": {"cosine": 3.0, "intra_v": 1.0},
        "train": {"steps": 2, "batch": 4, "device": "cpu"}, "cache": {"rank": 128, "calibration_samples": 16},
        "eval": {"tasks": ["counting"], "every": 1, "metric": "counting/accuracy"}}
config = check(tree, "toy")
assert "torch" not in sys.modules, "names are known before torch is imported"
from cmapkd.methods import METHODS
from cmapkd.policy import POLICIES
from cmapkd.tasks.table import TASKS
from cmapkd.towers.adapt import image_tower
kind = type("MeanColourTower", (), {})
found = type(image_tower(kind(), 8, (0,) * 3, (1,) * 3)).__name__
from msgspec import structs
from cmapkd.train.runs.distill import distill
folder = distill(structs.replace(config, eval=structs.replace(config.eval, every=None, tasks=("retrieval",), metric="mean_recall@1")))
rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
print(json.dumps([ "toy" in METHODS, "halves" in POLICIES, "counting" in TASKS, found,
                   [row["loss/cosine"] > 0 and row["weight/P2"] == 1 for row in rows if row["kind"] == "train"]]))
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A copy of the package with one file more for each kind; what was there is untouched."""
    root = tmp_path_factory.mktemp("grown")
    shutil.copytree(PACKAGE, root / "cmapkd", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in ADDED.items():
        path = root / "cmapkd" / name
        path.parent.mkdir(exist_ok=True)
        assert not path.exists()
        path.write_text(text)
    return root


def test_a_new_file_is_a_method_a_policy_a_task_and_a_tower_family(grown):
    place = os.environ | {"PYTHONPATH": str(grown), "CMAPKD_DATA": str(grown / "data")}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=grown, env=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [True, True, True, "MeanColour", [True, True]]
