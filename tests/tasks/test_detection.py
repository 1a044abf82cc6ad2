"""Detection end to end: eight pictures learnt by heart, the same floats for the same seed, honest boxes."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import toy
from cmapkd.core.errors import DataError, NonFiniteError, UsageError
from cmapkd.data.boxes import Boxes
from cmapkd.tasks.detection import probe as detection
from cmapkd.tasks.detection.average_precision import BACKENDS, Precision, check_results
from cmapkd.tasks.detection.coco_boxes import coco_truth, detect
from cmapkd.tasks.detection.probe import train_detector
from cmapkd.tasks.detection.training_images import Settings, TrainingImages
from cmapkd.tasks.result_file import write_results

SCORER = any(importlib.util.find_spec(module.split(".")[0]) for module, _, _ in BACKENDS.values())
needs_scorer = pytest.mark.skipif(not SCORER, reason="neither faster-coco-eval nor pycocotools is installed")
SMALL = Settings(epochs=50, batch=8, lr=3e-3, channels=32, convs=1, flip=False, workers=1)
W, H, SCALE = 80, 48, 4  # of the files; the boxes are in pixels of originals four times as large


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Boxes:
    """Eight pictures with a red or blue rectangle in either half; sparse ids, files smaller than their originals."""
    folder, rng = tmp_path_factory.mktemp("boxes"), np.random.default_rng(0)
    paths, boxes, labels = [], [], []
    for k in range(8):
        pixels = rng.integers(90, 130, (H, W, 3), dtype=np.uint8)
        mine, ids = [], []
        for half in range(2):
            w, h = rng.integers(14, 30, 2)
            x, y = int(rng.integers(40 * half, 40 * half + 41 - w)), int(rng.integers(0, H - h))
            kind = int(rng.integers(2))
            pixels[y : y + h, x : x + w] = [(220, 30, 30), (30, 30, 220)][kind]
            mine.append([SCALE * v for v in (x, y, w, h)])
            ids.append((3, 90)[kind])
        paths.append(folder / f"{k}.png")
        Image.fromarray(pixels).save(paths[-1])
        boxes.append(np.array(mine, dtype=np.float64))
        labels.append(np.array(ids))
    return Boxes(
        "pictures", tuple(range(100, 108)), tuple(paths), ((SCALE * W, SCALE * H),) * 8, tuple(boxes), tuple(labels),
        (np.zeros(2, dtype=np.int64),) * 8, tuple(b[:, 2] * b[:, 3] for b in boxes), {90: "blue", 3: "red"},
    )  # fmt: skip


@pytest.fixture
def unscored(monkeypatch) -> None:
    monkeypatch.setattr(detection, "installed", lambda: "none")
    monkeypatch.setattr(detection, "average_precision", lambda truth, results: Precision({}, {}))


@needs_scorer
def test_eight_pictures_are_learnt_by_heart_and_the_trunk_stays_still(pictures, tmp_path):
    tower = toy.tower(tmp_path)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    found = train_detector(tower, pictures, pictures, SMALL)
    assert len(found.losses) == 50 and found.losses[-1] < found.losses[0] / 2
    assert found.metrics["AP50"] > 0.9 and found.metrics["mAP"] > 0.5
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    assert found.score.notes == ("16 boxes", "8 training images", "frozen trunk", "50 steps")


def test_the_same_seed_gives_the_same_floats_and_another_other_ones(pictures, tmp_path, unscored):
    short = replace(SMALL, epochs=3, flip=True, batch=4, workers=2)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = train_detector(toy.tower(tmp_path / "a"), pictures, pictures, short)
    toy_state = torch.get_rng_state()
    two = train_detector(toy.tower(tmp_path / "b"), pictures, pictures, replace(short, workers=1))
    other = train_detector(toy.tower(tmp_path / "c"), pictures, pictures, replace(short, seed=1))
    assert one.losses == two.losses and one.results == two.results
    assert one.losses != other.losses
    assert not torch.equal(state, toy_state)  # the toy tower seeds, the detector must not
    torch.manual_seed(9)
    tower = toy.tower(tmp_path / "d")
    state = torch.get_rng_state()
    train_detector(tower, pictures, pictures, replace(short, epochs=1))
    assert torch.equal(state, torch.get_rng_state())


def test_a_trained_trunk_moves_and_its_text_tower_does_not(pictures, tmp_path, unscored):
    tower = toy.tower(tmp_path)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    train_detector(tower, pictures, pictures, replace(SMALL, epochs=3, train_trunk=True, trunk_lr=1e-3))
    moved = {name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])}
    assert "clip.visual.conv1.weight" in moved and all(name.startswith("clip.visual") for name in moved)


def test_targets_fit_the_pixels_mirrored_or_not(pictures):
    """Inside each target box the picture is red or blue, outside all of them it is grey."""
    flips = set()
    for seed in range(2):
        reading = TrainingImages(pictures, 64, replace(SMALL, flip=True, seed=seed))
        images, targets = reading.batch(0)
        for pixels, target in zip(images.float(), targets, strict=True):
            outside = torch.ones(64, 64, dtype=torch.bool)
            for box, label in zip(target["boxes"], target["labels"].tolist(), strict=True):
                x0, y0, x1, y1 = (round(v) for v in box.tolist())
                inside = pixels[:, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
                colour = (inside[0] - inside[2]).mean()
                assert colour > 150 if label == 0 else colour < -150
                outside[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = False
            assert (pixels[0] - pixels[2])[outside].abs().mean() < 20
        flips |= {
            bool(v)
            for v in (images != TrainingImages(pictures, 64, replace(SMALL, seed=seed)).batch(0)[0]).flatten(1).any(1)
        }
    assert flips == {True, False}


def test_an_epoch_shows_every_picture_once_whatever_came_before(pictures):
    reading = TrainingImages(pictures, 32, replace(SMALL, batch=3, epochs=2))
    assert reading.steps == 6
    shown = torch.cat([reading.batch(step)[0] for step in range(6)])
    kinds = {tuple(x.flatten().tolist()) for x in shown[:8]}
    assert not torch.equal(shown[:8], shown[8:16])
    assert len(kinds) == 8 and {tuple(x.flatten().tolist()) for x in shown[8:16]} == kinds
    assert torch.equal(TrainingImages(pictures, 32, replace(SMALL, batch=3, epochs=2)).batch(4)[0], reading.batch(4)[0])


def test_crowds_and_slivers_are_not_learnt_and_pictures_without_boxes_not_shown(pictures):
    boxes, crowd = list(pictures.boxes), list(pictures.iscrowd)
    boxes[0] = np.array([[10.0, 10, 0, 50], [-30, 20, 100, 5000]])
    crowd[1] = np.array([1, 0])
    crowd[2] = np.array([1, 1])
    changed = replace(pictures, boxes=tuple(boxes), iscrowd=tuple(crowd))
    reading = TrainingImages(changed, 32, SMALL)
    assert reading.pool == [0, 1, 3, 4, 5, 6, 7]
    targets = [reading._example(i, 0)[1] for i in (0, 1)]
    assert [len(t["labels"]) for t in targets] == [1, 1]
    torch.testing.assert_close(targets[0]["boxes"], torch.tensor([[0.0, 20 / 192 * 32, 70 / 320 * 32, 32.0]]))
    with pytest.raises(DataError, match="no image has a box"):
        TrainingImages(replace(pictures, iscrowd=(np.ones(2),) * 8), 32, SMALL)


def test_results_are_coco_json_in_original_pixels(pictures, tmp_path):
    from cmapkd.tasks.detection.detector import Detector

    tower = toy.tower(tmp_path)
    detector = Detector(tower, 2, channels=32, convs=1)
    results = detect(detector, pictures, batch=3)
    assert detector.training
    truth = coco_truth(pictures)
    boxes = check_results(truth, results)
    assert {r["image_id"] for r in results} == set(pictures.image_ids)
    assert boxes.min() >= 0 and (boxes[:, 0] + boxes[:, 2]).max() <= SCALE * W + 1e-3
    assert (boxes[:, 1] + boxes[:, 3]).max() <= SCALE * H + 1e-3 and boxes.max() > 64
    assert results == detect(detector, pictures, batch=8) or np.allclose(
        boxes, check_results(truth, detect(detector, pictures, batch=8)), atol=1e-2
    )
    write_results(tmp_path / "r.json", results)
    assert json.loads((tmp_path / "r.json").read_text()) == results
    assert truth["categories"] == [{"id": 3, "name": "red"}, {"id": 90, "name": "blue"}]
    assert len(truth["annotations"]) == 16 and truth["images"][0] == {"id": 100, "width": 320, "height": 192}


def test_an_unreadable_picture_is_passed_over_within_the_budget_and_never_scored(pictures, tmp_path, unscored):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    one = replace(pictures, paths=(tmp_path / "bad.jpg", *pictures.paths[1:]))
    reading = TrainingImages(one, 32, replace(SMALL, batch=8))
    assert reading.batch(0)[0].shape == (8, 3, 32, 32) and list(reading.bad) == [str(tmp_path / "bad.jpg")]
    two = replace(one, paths=(*one.paths[:7], tmp_path / "empty.jpg"))
    with pytest.raises(DataError, match="2 unreadable images, the budget is 1"):
        TrainingImages(two, 32, SMALL).batch(0)
    with pytest.raises(DataError, match="evaluation needs every image"):
        train_detector(toy.tower(tmp_path / "t"), pictures, one, replace(SMALL, epochs=1))


def test_a_missing_scorer_is_told_before_the_training(pictures, tmp_path, monkeypatch):
    def none() -> str:
        raise UsageError("pip install cmapkd[detection]")

    monkeypatch.setattr(detection, "installed", none)
    monkeypatch.setattr(detection, "_fit", lambda *_: pytest.fail("trained all the same"))
    with pytest.raises(UsageError, match="pip install"):
        train_detector(toy.tower(tmp_path), pictures, pictures, SMALL)


def test_wrong_settings_and_data_are_named(pictures, tmp_path, unscored):
    tower = toy.tower(tmp_path)
    with pytest.raises(UsageError, match="must be positive"):
        train_detector(tower, pictures, pictures, replace(SMALL, epochs=0))
    with pytest.raises(DataError, match="different categories"):
        train_detector(tower, pictures, replace(pictures, categories={3: "red"}), SMALL)
    with pytest.raises(DataError, match="1 images have no file"):
        gone = (*pictures.paths[:7], tmp_path / "gone.png")
        train_detector(tower, pictures, replace(pictures, paths=gone), SMALL)
    with pytest.raises(NonFiniteError, match="loss of step"):
        train_detector(tower, pictures, pictures, replace(SMALL, lr=math.inf))
