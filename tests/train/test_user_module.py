"""Students around an image backbone of the user's own code: named taps, or a method `levels`."""

from pathlib import Path

import pytest
import torch
from torch import nn

import cmapkd
import world
from cmapkd.core.errors import UsageError

TAPS = ("one", "two", "three", "four")


class Backbone(nn.Module):
    """Four convolutions of stride 2; gives the mean of the last map, or with `maps` the map itself."""

    def __init__(self, maps: bool = False, width: int = 16) -> None:
        super().__init__()
        self.maps = maps
        self.one, self.two, self.three, self.four = (
            nn.Sequential(nn.Conv2d(3 if k == 0 else width, width, 3, 2, 1), nn.ReLU()) for k in range(4)
        )

    def forward(self, x):
        x = self.four(self.three(self.two(self.one(x))))
        return x if self.maps else x.mean((2, 3))


class Own(Backbone):
    """The same with full control: tokens channel by channel, and another embedding."""

    def levels(self, pixels):
        found = [self.one(pixels)]
        for block in (self.two, self.three, self.four):
            found.append(block(found[-1]))
        return *found, found[-1].amax((2, 3))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return f"local-dir:{world.teacher_folder(tmp_path_factory.mktemp('module') / 'teacher')}"


def run(teacher, place, module, resume=False, steps=2, **image):
    torch.manual_seed(0)
    cache = {"rank": 32, "calibration_samples": 20, "words": 12}
    train = {"precision": "fp32", "threads": 1, "checkpoint_every": 1}
    return cmapkd.distill(
        teacher, module, {"train": "scenes:24:train", "views": 2}, val="scenes:8:val", run=place, steps=steps, batch=6, cache=cache, train=train,
        image={"size": 32, **image}, resume=resume,
    )  # fmt: skip


@pytest.mark.parametrize(("module", "taps"), [(Backbone, TAPS), (lambda: Backbone(maps=True), TAPS), (Own, ())])
def test_a_module_learns_is_written_and_opened_again(teacher, tmp_path, module, taps):
    mine = module()
    folder = run(teacher, tmp_path / "run", mine, taps=taps)
    row = next(row for row in world.rows(folder) if "loss/align" in row)
    assert "loss/intra_v" in row and "loss/intra_l" not in row
    opened, whole = cmapkd.load(folder, image=module()), cmapkd.load(teacher.removeprefix("local-dir:"))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert opened.encode_images(pixels).shape == (2, 24)
    assert torch.equal(opened.encode_texts(["a red star"]), whole.encode_texts(["a red star"]))
    for name, value in mine.state_dict().items():
        assert torch.equal(opened.native.visual.module.state_dict()[name], value)
    run(teacher, tmp_path / "run", module(), resume=True, taps=taps)
    with pytest.raises(UsageError, match="module of your own code; open it by cmapkd.load"):
        cmapkd.load(folder)


@pytest.mark.parametrize(
    ("module", "image", "message"),
    [
        (Backbone(), {"taps": ("one", "two", "thre", "four")}, "no module 'thre' .did you mean 'three"),
        (Backbone(), {"taps": ("one", "two")}, "2 names, but P2..P5 are four"),
        (Backbone(), {}, "give taps=.* or a method levels"),
        (Backbone(), {"tap": TAPS}, "image.tap: no such key"),
        (Backbone(), {"taps": TAPS, "size": 24, "channels_last": True}, "no square map"),
    ],
)
def test_wrong_taps_are_refused_in_one_line(teacher, tmp_path, module, image, message):
    with pytest.raises(UsageError, match=message) as caught:
        run(teacher, tmp_path / "run", module, **image)
    assert "\n" not in str(caught.value)


def test_outputs_that_are_not_finite_are_refused(teacher, tmp_path):
    module = Backbone()
    nn.init.constant_(module.two[0].bias, float("nan"))
    with pytest.raises(UsageError, match="tap 'two' of Backbone: gives numbers that are not finite"):
        run(teacher, tmp_path / "run", module, taps=TAPS)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(cmapkd.__file__).parents[2] / "docs" / "models-one-sided.md").read_text()
    names: dict[str, object] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert names["model"].encode_texts(["a star"]).shape[0] == 1
