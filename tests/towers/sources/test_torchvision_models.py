"""Models of torchvision as teachers and students: their levels, their own feature, and the folder that reopens without code."""

import pytest
import torch
from torchvision.models import SwinTransformer, VisionTransformer, get_model

import world
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.load import load_tower
from cmapkd.towers.sources.torchvision import Staged
from cmapkd.train.runs.distill import distill
from families.one_sided import FAMILIES

SMALL = {"data__train": "scenes:8:train", "data__val": None, "train__steps": 1, "train__batch": 4, "cache__path": None,
         "cache__calibration_samples": 16, "eval__every": None}  # fmt: skip


def small_swin():
    return SwinTransformer([4, 4], 8, [1, 1, 1, 1], [1, 1, 2, 2], [2, 2])


@pytest.mark.parametrize("make", [lambda: get_model("mobilenet_v3_small"), small_swin], ids=["mobilenet", "swin"])
def test_levels_are_the_last_maps_of_the_last_four_resolutions(make):
    with torch.no_grad():
        *levels, _ = Staged(make(), 64, "model").eval().levels(torch.zeros(1, 3, 64, 64))
    assert [level.shape[-1] for level in levels] == [16, 8, 4, 2] == [level.shape[-2] for level in levels]


def test_p2_to_p5_of_a_resnet_are_its_four_layers():
    model = get_model("resnet18").eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        *levels, _ = Staged(model, 64, "resnet18").levels(x)
        wanted = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        for layer, level in zip((model.layer1, model.layer2, model.layer3, model.layer4), levels, strict=True):
            wanted = layer(wanted)
            assert torch.equal(level, wanted)


def test_a_teacher_gives_the_feature_before_its_classifier(tmp_path):
    from safetensors.torch import load_file

    name = FAMILIES["torchvision"](tmp_path)
    tower = load_tower(TowerConfig(model=name)).eval()
    plain = get_model(name.split(":")[1]).eval()
    plain.load_state_dict(load_file(name.split(":")[2]))
    plain.fc = torch.nn.Identity()
    x = torch.randn(1, 3, tower.size, tower.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(tower.image.encode(x), plain(x))
        assert torch.equal(tower.image.levels(x).final, plain(x)) and tower.shape.sides == ("image",)


@pytest.mark.parametrize("teacher", ["texts", "images"])
def test_a_students_folder_is_opened_without_code(tmp_path, teacher):
    world.teacher_folder(tmp_path / "teacher")
    world.teacher_folder(tmp_path / "student-init", seed=1, width=32)
    over = {"teacher__model": "timm:test_vit"} if teacher == "images" else {}
    given = {
        "run": str(tmp_path / "run"),
        "student__model": FAMILIES["torchvision"](tmp_path),
        "method": "fd",
        **SMALL,
        **over,
    }
    run = distill(world.config(tmp_path, **given))
    tower = load_tower(TowerConfig(model=str(run / "student"))).eval()
    images = torch.zeros(1, 3, tower.size, tower.size, dtype=torch.uint8)
    assert tower.name == "torchvision:shufflenet_v2_x0_5" and bool(tower.encode_images(images).isfinite().all())
    if teacher == "texts":
        theirs = load_tower(TowerConfig(model=str(tmp_path / "teacher"))).eval()
        assert torch.equal(tower.encode_texts(["a star"]), theirs.encode_texts(["a star"]))
    else:
        assert tower.shape.sides == ("image",)


def test_a_model_without_four_resolutions_is_refused():
    with pytest.raises(UsageError, match="has maps of 1 resolutions.*use timm's model of that kind") as caught:
        Staged(VisionTransformer(32, 16, 1, 1, 8, 8), 32, "vit_b_16")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("squeezenet1_0", "ends in no linear classifier"),
        ("resnett18", "no classifier of that name .did you mean 'resnet18"),
    ],
)
def test_unknown_names_and_models_without_a_linear_classifier_are_refused(name, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_tower(TowerConfig(model=f"torchvision:{name}"))
    assert "\n" not in str(caught.value)
