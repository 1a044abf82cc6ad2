"""Hugging Face vision models as teachers of images, and students that keep the text tower of a Hugging Face teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import toy
from cmapkd.config.schema import TowerConfig
from cmapkd.config.sources import StudentConfig
from cmapkd.core.errors import UsageError
from cmapkd.export.student_folder import card_facts, save_student
from cmapkd.towers import named, sides
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower
from families import hugging_face, one_sided


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sides")


def toy_model(place: Path, name: str) -> str:
    return (hugging_face.FAMILIES | one_sided.FAMILIES)[name](place / name)


def pixels(tower: DualEncoder) -> torch.Tensor:
    shape = (2, 3, tower.size, tower.size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def opened(folder: Path) -> DualEncoder:
    return load_tower(TowerConfig(model=f"local-dir:{folder}")).eval()


def written(place: Path, folder: Path, teacher: str, student: str) -> DualEncoder:
    """The teacher of a student whose folder is written before any training; tests/test_pairs.py trains them."""
    given = TowerConfig(model=toy_model(place, teacher))
    save_student(load_tower(StudentConfig(model=toy_model(place, student)), teacher=given), folder, "cmapkd")
    return load_tower(given).eval()


def test_a_vision_model_teaches_images_at_its_own_size_and_at_another(place):
    name = toy_model(place, "hf-vision")
    tower, plain = load_tower(TowerConfig(model=name)).eval(), transformers.AutoModel.from_pretrained(name[3:]).eval()
    assert tower.shape.sides == ("image",) and not sides.has_text(TowerConfig(model=name))
    with torch.no_grad():
        wanted = plain(tower.normalise(pixels(tower))).pooler_output
    torch.testing.assert_close(tower.raw_images(pixels(tower)), wanted, atol=1e-5, rtol=0)
    larger = TowerConfig(model=name, image_size=64)
    assert load_tower(larger).shape.grids == (8, 8, 8, 4) and named.image_size(larger) == 64
    assert named.identity(larger) != named.identity(TowerConfig(model=name))


def test_a_vision_model_of_fixed_positions_refuses_another_size(place):
    config = transformers.ViTConfig(**hugging_face.VISION)
    name = hugging_face.write(place / "vit", lambda: transformers.ViTModel(config), None)
    assert load_tower(TowerConfig(model=name)).size == 32
    with pytest.raises(UsageError, match="a vit reads images of 32 pixels only"):
        load_tower(TowerConfig(model=name, image_size=64))


@pytest.mark.parametrize(("teacher", "student"), [("hf-chinese-clip", "hf-vision"), ("hf-blip", "test_efficientnet")])
def test_a_student_beside_a_bert_of_its_teacher_opens_in_transformers(place, tmp_path, teacher, student):
    folder = tmp_path / "student"
    tower = written(place, folder, teacher, student)
    ours, plain = opened(folder), transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    given = words(toy.CAPTIONS[:3], padding=True, return_tensors="pt")
    with torch.no_grad():
        texts = torch.nn.functional.normalize(plain.get_text_features(**given).pooler_output, dim=-1)
        images = plain.get_image_features(ours.normalise(pixels(ours))).pooler_output
        scores = plain(**given, pixel_values=ours.normalise(pixels(ours))).logits_per_image
    torch.testing.assert_close(texts, tower.encode_texts(toy.CAPTIONS[:3]), atol=1e-5, rtol=0)
    torch.testing.assert_close(images, ours.raw_images(pixels(ours)), atol=1e-5, rtol=0)
    assert scores.shape == (2, 3) and type(plain).__name__ == "VisionTextDualEncoderModel"


@pytest.mark.parametrize("teacher", ["hf-siglip2", "hf-metaclip2"])
def test_a_student_beside_texts_that_open_clip_has_opens_in_open_clip(place, tmp_path, teacher):
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path / "student"
    tower = written(place, folder, teacher, "test_vit")
    plain = open_clip.create_model(f"local-dir:{folder}").eval()
    texts = ["A red Star above the tree", "two rings"]
    with torch.no_grad():
        given = plain.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts), normalize=True)
    torch.testing.assert_close(given, tower.encode_texts(texts), atol=1e-5, rtol=0)
    assert plain.logit_scale.item() == pytest.approx(float(tower.similarity.scale.log()))
    assert (plain.logit_bias is None) == (tower.similarity.bias is None)


def test_a_vision_model_beside_an_open_clip_text_tower_opens_here(place, tmp_path):
    folder = tmp_path / "student"
    tower = written(place, folder, "hf-clip", "hf-vision")
    ours = opened(folder)
    assert torch.equal(ours.encode_texts(toy.CAPTIONS[:3]), tower.encode_texts(toy.CAPTIONS[:3]))
    assert named.image_size(TowerConfig(model=f"local-dir:{folder}")) == ours.size
    assert card_facts(ours)["library"] == "cmapkd"


def test_a_text_tower_that_no_class_opens_is_refused(place):
    student = StudentConfig(model=toy_model(place, "test_vit"))
    with pytest.raises(UsageError, match="no model that opens the AltCLIPTextModel .*both towers"):
        load_tower(student, teacher=TowerConfig(model=toy_model(place, "hf-altclip")))
