"""Vision models of Hugging Face without a text tower: the library's pooled vector, and levels from hidden states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cmapkd.core.errors import UsageError
from cmapkd.towers.sources.hugging_face import image_model
from families import hugging_face as hf

SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1] * 4,
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
}
DINO = {key: value for key, value in hf.VISION.items() if key != "intermediate_size"}
MODELS: dict[str, Callable[[], Any]] = {
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**DINO, mlp_ratio=2)),
    "registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**DINO, mlp_ratio=2, num_register_tokens=4)
    ),
    "dinov3": lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**hf.VISION, num_register_tokens=4)),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**hf.VISION)),
    "classifier": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**hf.VISION, num_labels=5)),
    "siglip": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**hf.VISION)),
    "clip": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**hf.VISION)),
    "convnext": lambda: transformers.ConvNextModel(
        transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, patch_size=2)
    ),
    "resnet": lambda: transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4)
    ),
    "swin": lambda: transformers.SwinModel(transformers.SwinConfig(**SWIN)),
    "timm-vit": lambda: transformers.TimmWrapperModel(hf.timm_config("test_vit")),
    "timm-convnext": lambda: transformers.TimmWrapperModel(hf.timm_config("test_convnext")),
}
STAGES = ("convnext", "resnet", "swin", "timm-convnext")


@torch.no_grad()
@pytest.mark.parametrize("name", list(MODELS))
def test_a_vision_model_gives_its_pooled_vector_and_four_levels(name: str, tmp_path: Path) -> None:
    made: dict[str, Any] = {}

    def make() -> Any:
        made["model"] = MODELS[name]()
        return made["model"]

    hf.write(tmp_path, make, None)
    if name.startswith("timm"):  # such folders have their processor's facts in config.json
        (tmp_path / "preprocessor_config.json").unlink()
    model, tower = made["model"].eval(), image_model(tmp_path)
    assert tower.size == hf.SIZE and tower.single_scale == (name not in STAGES)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if name == "classifier":
        expected = model.vit(pixels).last_hidden_state[:, 0]
    else:
        expected = model(pixels).pooler_output.flatten(1)
    assert expected.std(0).mean() > 1e-3
    torch.testing.assert_close(tower.encode(pixels), expected, atol=1e-5, rtol=1e-5)
    features = tower.levels(pixels)
    torch.testing.assert_close(features.final, expected, atol=1e-5, rtol=1e-5)
    assert [level.shape[1] for level in features.levels[:3]] == [grid**2 for grid in tower.grids[:3]]
    if name in ("registers", "dinov3", "dinov2"):
        states = model(pixels, output_hidden_states=True).hidden_states
        torch.testing.assert_close(features.levels[0], states[1][:, -16:])
        torch.testing.assert_close(features.levels[2], states[4][:, -16:])
        torch.testing.assert_close(features.levels[3][:, -2], states[4][:, 0])


def test_a_text_model_is_no_vision_model(tmp_path: Path) -> None:
    hf.write(tmp_path, lambda: transformers.BertModel(transformers.BertConfig(**hf.TEXT)), None)
    with pytest.raises(
        UsageError, match="model_type 'bert' is no model of an image and a text tower, and none of images"
    ):
        image_model(tmp_path)


def test_the_image_half_of_two_towers_can_stand_alone(tmp_path: Path) -> None:
    hf.siglip(tmp_path / "siglip")
    assert image_model(tmp_path / "siglip").embedding == 32
