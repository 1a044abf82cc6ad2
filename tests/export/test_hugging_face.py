"""A student as a Hugging Face CLIP folder: the same embeddings and ids, or a refusal that names what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import toy
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.export import hugging_face
from cmapkd.export.hugging_face import export_hugging_face
from cmapkd.towers.adapt import adapt
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower

transformers = pytest.importorskip("transformers")
CAPTIONS = ["a red star above the tree", "two rings", "blue star beside the small house"]


@pytest.fixture(scope="module", params=["train:96", "own"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    torch.manual_seed(0)
    config = TowerConfig(model="cmapkd-small-64", tokenizer=request.param)
    return load_tower(config, CAPTIONS * 9, tmp_path_factory.mktemp("tokenizer"))


def test_transformers_loads_the_same_embeddings_and_the_same_ids(student: DualEncoder, tmp_path: Path) -> None:
    said = export_hugging_face(student, tmp_path / "hf", "---\nlibrary_name: open_clip\n---\n\n## Use\n\nopen_clip")
    model = transformers.CLIPModel.from_pretrained(tmp_path / "hf").eval()
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    batch = tokens(CAPTIONS, padding="max_length", max_length=student.tokenizer.context, return_tensors="pt")
    ids, _ = student.tokenizer(CAPTIONS)
    for mine, theirs in zip(ids, batch.input_ids, strict=True):
        length = int((mine == student.tokenizer.end).int().argmax()) + 1
        assert torch.equal(mine[:length], theirs[:length])
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        text = model.get_text_features(batch.input_ids).pooler_output
        image = model.get_image_features(student.normalise(images)).pooler_output
    torch.testing.assert_close(F.normalize(text, dim=-1), student.encode_texts(CAPTIONS), atol=1e-5, rtol=0)
    torch.testing.assert_close(F.normalize(image, dim=-1), student.encode_images(images), atol=1e-5, rtol=0)
    assert torch.equal(model.logit_scale.detach(), student.native.logit_scale.detach()) and "largest difference" in said
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "library_name: transformers" in card and "CLIPModel.from_pretrained" in card and "open_clip" not in card


def test_the_processor_normalises_as_the_student_does(student: DualEncoder, tmp_path: Path) -> None:
    export_hugging_face(student, tmp_path / "hf")
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    read = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "hf")
    torch.testing.assert_close(read(image, return_tensors="pt").pixel_values, student.normalise(image[None]))


def test_the_project_reads_its_own_export_back(student: DualEncoder, tmp_path: Path) -> None:
    export_hugging_face(student, tmp_path / "hf")
    again = load_tower(TowerConfig(model=f"local-dir:{tmp_path / 'hf'}"))
    torch.testing.assert_close(again.encode_texts(CAPTIONS), student.encode_texts(CAPTIONS), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model", "tensor"), [("cmapkd-rn-small-64", "visual.layer1.0.conv1.weight"), ("vit_tiny", "visual.trunk.")]
)
def test_a_tower_that_is_no_plain_vit_is_refused_naming_a_tensor(model: str, tensor: str, tmp_path: Path) -> None:
    if model == "vit_tiny":
        from cmapkd.towers.sources.open_clip import build

        cfg = toy.config(128, size=224) | {
            "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": ""}
        }
        words = toy.tokenizer(tmp_path / "tok")
        tower = adapt(build(cfg), words, 224, toy.MEAN, toy.STD, cfg, "timm", words=8)
    else:
        tower = load_tower(TowerConfig(model=model, tokenizer="train:96"), CAPTIONS * 9, tmp_path / "tok")
    with pytest.raises(UsageError, match="has no place in a Hugging Face CLIPModel; only plain ViT") as caught:
        export_hugging_face(tower, tmp_path / "hf")
    assert "\n" not in str(caught.value) and not (tmp_path / "hf").exists()


def test_a_folder_whose_model_computes_something_else_is_not_written(
    student: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = hugging_face.hugging_face_config
    monkeypatch.setattr(
        hugging_face, "hugging_face_config",
        lambda *a: json.loads(json.dumps(right(*a)).replace('"gelu"', '"quick_gelu"')),
    )  # fmt: skip
    with pytest.raises(UsageError, match="embeddings differ by"):
        export_hugging_face(student, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
