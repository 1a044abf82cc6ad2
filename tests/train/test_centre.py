import pytest
import torch
import torch.nn.functional as F

import world
from cmapkd.config.schema import TowerConfig
from cmapkd.data.loader import read_images
from cmapkd.data.readers import open_samples
from cmapkd.tasks.table import evaluate
from cmapkd.towers.load import load_tower
from cmapkd.train.runs.distill import distill
from cmapkd.train.validation import centre


def test_the_mean_is_taken_where_a_caption_is_near_to_every_image():
    torch.manual_seed(0)
    own = F.normalize(torch.randn(32, 16), dim=-1)
    hub = F.normalize(torch.randn(1, 16), dim=-1)
    image, text = own + 1.5 * hub, torch.cat([own, hub])
    owner = torch.cat([torch.arange(32), torch.tensor([0])])
    assert centre.best_share(image, text, owner) == 1.0
    assert centre.best_share(own - own.mean(0), own, torch.arange(32)) == 0.0  # of equal shares the smallest


@pytest.fixture
def wholly(monkeypatch):
    """The whole mean is taken, whatever the recalls are."""
    monkeypatch.setattr(centre, "best_share", lambda *_: 1.0)


def test_the_written_student_is_centred_and_training_went_on_with_the_plain_one(root, wholly):
    runs = {
        on: distill(world.config(root, run=str(root / f"centre-{on}"), method="scratch", train__centre=on))
        for on in (True, False)
    }
    plain, other = (world.final_tensors(runs[on]) for on in (True, False))
    assert all(tensor.equal(other[name]) for name, tensor in plain.items())
    students = {on: load_tower(TowerConfig(model=f"local-dir:{run / 'student'}")) for on, run in runs.items()}
    config = world.config(root)
    pixels = read_images(open_samples(config.data.train, config.data, None), range(48), 32)
    means = {on: student.raw_images(pixels).mean(0) for on, student in students.items()}
    assert means[True].norm() < 1e-4 < 0.1 * means[False].norm()


def test_the_figures_are_those_of_the_written_student_and_the_plain_ones_stand_beside_them(root, wholly):
    row = world.rows(distill(world.config(root, run=str(root / "centred"), method="scratch")))[-1]
    plain = world.rows(distill(world.config(root, run=str(root / "plain"), method="scratch", train__centre=False)))[-1]
    assert (row["centred"], plain["centred"]) == (1.0, 0.0)
    assert row["plain/mean_recall"] == plain["mean_recall"] and "plain/mean_recall" not in plain
    config = world.config(root)
    student = load_tower(TowerConfig(model=f"local-dir:{root / 'centred' / 'student'}"))
    score = evaluate(student, open_samples(config.data.val, config.data, None), "retrieval", 256)
    assert score.metrics["mean_recall"] == pytest.approx(row["mean_recall"])


def test_a_student_that_a_head_reads_stays_plain(root, wholly):
    task = {"name": "vqa", "train": "scenes:16:train", "val": "holdout", "holdout": 0.25, "batch": 4}
    over = {"method": "scratch", "train__steps": 2, "weights": {"align": 1.0, "task": 0.5}, "task": task}
    assert world.rows(distill(world.config(root, run=str(root / "headed"), **over)))[-1]["centred"] == 0.0
