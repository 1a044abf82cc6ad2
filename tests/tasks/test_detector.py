"""The detector on P2-P5: shapes, exact boxes, what learns and what does not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import toy
from cmapkd.core.errors import UsageError
from cmapkd.tasks.detection.detector import Cells, Detector, TowerPyramid, from_tower, to_tower
from cmapkd.towers.dual import DualEncoder


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> DualEncoder:
    return toy.tower(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> DualEncoder:
    from cmapkd.towers.adapt import adapt
    from cmapkd.towers.sources.open_clip import build
    from cmapkd.towers.tokens import tokenizer as tok

    folder = tmp_path_factory.mktemp("resnet")
    words = toy.tokenizer(folder)
    cfg = toy.config(tok.vocabulary(folder), size=64)
    cfg["vision_cfg"] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    torch.manual_seed(0)
    return adapt(build(cfg), words, 64, toy.MEAN, toy.STD, cfg, "toy-rn", words=8)


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> DualEncoder:
    """A grid of 5, so that P5 is rounded up to 3 and its cells are 40/3 pixels wide."""
    return toy.tower(tmp_path_factory.mktemp("odd"), size=40)


def example(tower: DualEncoder, n: int = 2):
    images = torch.randint(0, 256, (n, 3, tower.size, tower.size), dtype=torch.uint8)
    some = {"boxes": torch.tensor([[2.0, 3.0, 20.0, 30.0], [5.0, 5.0, 15.0, 12.0]]), "labels": torch.tensor([1, 0])}
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return images, [some if k % 2 == 0 else none for k in range(n)]


@pytest.mark.parametrize("name", ["vit", "resnet", "odd"])
def test_the_levels_are_squares_that_halve(name, request):
    tower = request.getfixturevalue(name)
    maps = TowerPyramid(tower, 32, False)(torch.zeros(2, 3, tower.size, tower.size))
    assert list(maps) == ["P2", "P3", "P4", "P5"]
    sides = [m.shape[-1] for m in maps.values()]
    assert all(m.shape == (2, 32, side, side) for m, side in zip(maps.values(), sides, strict=True))
    assert all(-(-fine // 2) == coarse for fine, coarse in zip(sides, sides[1:], strict=False))
    if tower.image.single_scale:
        assert sides[0] == 4 * tower.shape.grids[2]


def test_a_map_keeps_rows_and_columns_apart(vit, monkeypatch):
    """One token at the lower left changes; P4 must change around it and nowhere else."""
    pyramid, grids, widths = TowerPyramid(vit, 32, False), vit.shape.grids, vit.shape.image_widths
    levels = [torch.zeros(1, g * g, w) for g, w in zip(grids, widths, strict=True)]
    levels[3] = torch.zeros(1, grids[3] ** 2 + 2, widths[3])
    moved = torch.zeros(1, grids[2], grids[2], widths[2])
    moved[:, -1, 0] = torch.randn(widths[2])
    maps = []
    for p4 in (levels[2], moved.flatten(1, 2)):
        features = SimpleNamespace(levels=(*levels[:2], p4, levels[3]))
        monkeypatch.setattr(vit.image, "levels", lambda x, features=features: features)
        maps.append(pyramid(torch.zeros(1, 3, vit.size, vit.size))["P4"])
    changed = (maps[0] - maps[1]).abs().sum(1)[0] > 1e-6
    assert changed[-2:, :2].all() and not changed[:-2].any() and not changed[:, 2:].any()


def test_only_the_map_of_p5_is_placed_in_the_image(vit, monkeypatch):
    """Its last two tokens are the summary and the mean, whose values change nothing; its first stands at the upper left."""
    pyramid, grids, widths = TowerPyramid(vit, 32, False), vit.shape.grids, vit.shape.image_widths
    upper = [torch.zeros(1, g * g, w) for g, w in zip(grids[:3], widths[:3], strict=True)]
    maps = []
    for place in (None, -1, -2, 0):
        last = torch.zeros(1, grids[3] ** 2 + 2, widths[3])
        if place is not None:
            last[:, place] = torch.randn(widths[3])
        monkeypatch.setattr(vit.image, "levels", lambda x, last=last: SimpleNamespace(levels=(*upper, last)))
        maps.append(pyramid(torch.zeros(1, 3, vit.size, vit.size))["P5"])
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2]) and not torch.equal(maps[0], maps[3])


@pytest.mark.parametrize(("size", "sides"), [(224, (64, 32, 16, 8)), (224, (28, 14, 7, 4)), (40, (20, 10, 5, 3))])
def test_cells_tile_the_image_at_every_level(size, sides):
    maps = [torch.zeros(1, 1, side, side) for side in sides]
    images = SimpleNamespace(tensors=torch.zeros(2, 3, size, size), image_sizes=[(size, size)] * 2)
    cells, twin = Cells()(images, maps)
    assert cells.dtype == torch.float32 and torch.equal(cells, twin)
    for level, side in zip(cells.split([s * s for s in sides]), sides, strict=True):
        assert level.min() == 0 and level.max() == size
        areas = (level[:, 2:] - level[:, :2]).prod(1)
        assert abs(float(areas.sum()) - size * size) < 0.1 and areas.std() < 1e-3
        second, below = level[1], level[side]
        assert second[0] > 0 and second[1] == 0 and below[0] == 0 and below[1] > 0


def test_boxes_come_back_from_the_tower_as_they_went():
    generator = torch.Generator().manual_seed(0)
    for image, size in (((640, 426), 224), ((33, 1999), 64), ((7, 7), 7)):
        boxes = torch.rand(200, 4, generator=generator, dtype=torch.float64) * torch.tensor([*image, *image])
        torch.testing.assert_close(from_tower(to_tower(boxes, image, size), image, size), boxes, rtol=0, atol=1e-9)
    corners = to_tower(torch.tensor([[64.0, 100.0, 320.0, 200.0]]), (640, 400), 224)
    torch.testing.assert_close(corners, torch.tensor([[22.4, 56.0, 134.4, 168.0]]))


@pytest.mark.parametrize("name", ["vit", "resnet", "odd"])
def test_training_gives_losses_and_eval_gives_sorted_boxes_inside_the_image(name, request):
    tower = request.getfixturevalue(name)
    detector = Detector(tower, 3, channels=32, convs=1)
    images, targets = example(tower)
    losses = detector(images, targets)
    assert set(losses) == {"classification", "bbox_regression", "bbox_ctrness"}
    assert all(v.isfinite() and v.requires_grad for v in losses.values())
    assert all(v.isfinite() for v in detector(images, targets[1:] * 2).values())
    detector.eval()
    with torch.inference_mode():
        found = detector(images)
    assert len(found) == 2
    for one in found:
        assert len(one["boxes"]) == len(one["scores"]) == len(one["labels"]) <= 100
        assert one["boxes"].min() >= 0 and one["boxes"].max() <= tower.size
        assert (one["scores"].diff() <= 0).all() and one["labels"].min() >= 0 and one["labels"].max() < 3


def test_pixels_reach_the_tower_as_they_are(vit, monkeypatch):
    """torchvision's own resizing, normalising and padding are off."""
    detector = Detector(vit, 2, channels=32, convs=1)
    images, targets = example(vit)
    seen = []
    original = vit.normalise
    monkeypatch.setattr(vit, "normalise", lambda x: seen.append(x) or original(x))
    detector(images, targets)
    assert torch.equal(seen[0], images.float())


@pytest.mark.parametrize("train_trunk", [False, True])
def test_the_trunk_gets_gradients_only_when_it_is_trained(tmp_path, train_trunk):
    tower = toy.tower(tmp_path)
    detector = Detector(tower, 2, channels=32, convs=1, train_trunk=train_trunk)
    sum(detector(*example(tower)).values()).backward()
    assert all(p.grad is not None for p in detector.learnt())
    reached = {id(p) for p in tower.parameters() if p.grad is not None}
    if train_trunk:
        assert reached and reached <= {id(p) for p in detector.trunk()}
        assert id(tower.image.native.conv1.weight) in reached
    else:
        assert not reached and detector.trunk() == []
    assert len(detector.learnt()) + len(list(tower.parameters())) == len(list(detector.parameters()))


def test_every_side_of_a_box_has_a_gradient_from_the_first_step(vit):
    detector = Detector(vit, 2, channels=32, convs=1)
    detector(*example(vit))["bbox_regression"].backward()
    sides = detector.fcos.head.regression_head.bbox_reg.bias
    assert (sides > 0).all() and (sides.grad != 0).all()


def test_the_tower_stays_in_eval_mode(resnet):
    detector = Detector(resnet, 2, channels=32, convs=1)
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    detector.train()
    detector(*example(resnet))
    assert detector.training and not any(m.training for m in resnet.modules())
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())


def test_wrong_sizes_are_refused(vit):
    with pytest.raises(UsageError, match="multiple of 32"):
        Detector(vit, 2, channels=48)
    with pytest.raises(UsageError, match="at least one class"):
        Detector(vit, 0)
