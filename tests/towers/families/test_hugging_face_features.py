"""Hugging Face models of two towers: the library's own embeddings on real texts, and levels read by hand from hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

import toy
from cmapkd.config.schema import TowerConfig
from cmapkd.core.types import Inputs
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower
from cmapkd.towers.sources.hf_config import TWO_TOWERS
from families import hugging_face as hf

TEXTS = ["a red star above the tree", "two rings", "Blue star, beside the small house!"]
CLASSES = {
    "hf-siglip": "SiglipModel", "hf-siglip2": "Siglip2Model", "hf-chinese-clip": "ChineseCLIPModel",
    "hf-altclip": "AltCLIPModel", "hf-metaclip2": "MetaClip2Model", "hf-vit-bert": "VisionTextDualEncoderModel",
    "hf-swin-roberta": "VisionTextDualEncoderModel", "hf-timm-bert": "VisionTextDualEncoderModel",
    "hf-blip": "BlipForImageTextRetrieval", "hf-blip-model": "BlipModel",
}  # fmt: skip


class Both:
    """One toy model as the project reads it and as transformers does."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family = family
        self.ours = load_tower(TowerConfig(model=hf.FAMILIES[family](folder)), words=8).eval()
        self.theirs: Any = getattr(transformers, CLASSES[family]).from_pretrained(folder).eval()
        words: Any = transformers.AutoTokenizer.from_pretrained(folder)
        padding = "max_length" if "siglip" in family else True
        given = words(TEXTS, padding=padding, truncation=True, max_length=hf.CONTEXT, return_tensors="pt")
        self.text = {k: v for k, v in given.items() if k in ("input_ids", "attention_mask")}
        if "siglip" in family:
            self.text.pop("attention_mask", None)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (3, 3, hf.SIZE, hf.SIZE), generator=generator, dtype=torch.uint8)
        self.pixels = self.ours.normalise(self.images)

    def image(self, **options: Any) -> Any:
        """Arguments of the library's vision model."""
        if self.family != "hf-siglip2":
            return self.theirs.vision_model(self.pixels, **options)
        processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16, do_resize=False)
        given = processor(list(self.images), return_tensors="pt")
        return self.theirs.vision_model(given.pixel_values, given.pixel_attention_mask, given.spatial_shapes, **options)

    def embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The library's own embeddings, not normalised."""
        if self.family == "hf-blip":
            text = self.theirs.text_encoder(**self.text).last_hidden_state[:, 0]
            return self.theirs.vision_proj(self.image().last_hidden_state[:, 0]), self.theirs.text_proj(text)
        if self.family == "hf-siglip2":
            image = self.image()
        else:
            image = self.theirs.get_image_features(self.pixels)
        return image.pooler_output, self.theirs.get_text_features(**self.text).pooler_output


@pytest.fixture(scope="module", params=[name for name in hf.FAMILIES if name in CLASSES])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(request.param, tmp_path_factory.mktemp("model") / "folder")


def test_the_toys_cover_every_two_tower_class() -> None:
    assert set(CLASSES) == set(hf.FAMILIES) - {"hf-clip"} and set(TWO_TOWERS.values()) <= set(CLASSES.values())


@torch.no_grad()
def test_embeddings_are_those_of_the_library(both: Both) -> None:
    image, text = both.embeddings()
    assert image.std(0).mean() > 0.01 and text.std(0).mean() > 0.01, "all alike: nothing would be compared"
    ids, words = both.ours.tokenizer(TEXTS)
    for features in (both.ours(Inputs(both.images, ids, words)), both.ours.final(Inputs(both.images, ids, words))):
        found = features.map(lambda part: getattr(part, "final", part))
        torch.testing.assert_close(found.image, image, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.text, text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.ours.encode_texts(TEXTS), F.normalize(text, dim=-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.ours.encode_images(both.images), F.normalize(image, dim=-1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_scale_is_that_of_the_library(both: Both) -> None:
    expected = getattr(both.theirs, "logit_scale", torch.tensor(1 / 0.07).log())
    torch.testing.assert_close(both.ours.similarity.scale, expected.exp().clamp_max(1000).reshape(()))
    bias = getattr(both.theirs, "logit_bias", None)
    assert (both.ours.similarity.bias is None) == (bias is None)


@torch.no_grad()
def test_image_levels_are_hidden_states(both: Both) -> None:
    levels = both.ours.image.levels(both.pixels).levels
    out = both.image(output_hidden_states=True)
    if both.family == "hf-timm-bert":
        expected = [state.flatten(2).transpose(1, 2) for state in out.hidden_states[-4:]]
    elif both.family == "hf-swin-roberta":  # each stage's map before it is halved for the next one
        out = both.image(output_hidden_states=True, output_hidden_states_before_downsampling=True)
        expected = [state.flatten(2).transpose(1, 2) for state in out.reshaped_hidden_states[-4:]]
    else:  # after blocks 1, 3 and 4 of 4; SigLIP has no class token
        first = 0 if "siglip" in both.family else 1
        expected = [out.hidden_states[k][:, first:] for k in (1, 3, 4)]
        summary = out.hidden_states[4][:, 0] if first else expected[2].mean(1)
        torch.testing.assert_close(levels[3][:, -2], summary)
        torch.testing.assert_close(levels[3][:, -1], expected[2].mean(1))
        torch.testing.assert_close(levels[3][:, 0], expected[2].unflatten(1, (4, 4))[:, :2, :2].mean((1, 2)))
    for mine, theirs in zip(levels, expected[:3], strict=False):
        torch.testing.assert_close(mine, theirs)
    if len(expected) == 4:
        torch.testing.assert_close(levels[3][:, :-2], expected[3])


@torch.no_grad()
def test_text_levels_are_hidden_states(both: Both) -> None:
    ids, words = both.ours.tokenizer(TEXTS)
    features = both.ours.text.levels(ids, words)
    tower = both.theirs.text_encoder if both.family == "hf-blip" else both.theirs.text_model
    out = tower(**both.text, output_hidden_states=True)
    length = both.text["input_ids"].shape[1]
    real = both.ours.tokenizer.real(ids)[:, :length]
    words = words[:, :length]
    for level, state, window in ((0, out.hidden_states[1], 1), (1, out.hidden_states[2], 3)):
        for row in range(3):
            for word in range(int(words[row].max()) // window + 1):
                tokens = state[row, words[row] // window == word]
                if not len(tokens):  # a word of punctuation alone, which the model drops
                    continue
                expected = tokens.mean(0)
                torch.testing.assert_close(features.levels[level][row, word], expected, atol=1e-5, rtol=1e-4)
    mean = (out.hidden_states[3] * real[..., None]).sum(1) / real.sum(1)[:, None]
    torch.testing.assert_close(features.levels[2][:, 0], mean, atol=1e-5, rtol=1e-4)
    if both.family == "hf-altclip":  # its output is in another width than its blocks
        pooled = out.hidden_states[3][:, 0]
    elif "siglip" in both.family:
        pooled = out.last_hidden_state[:, -1]
    elif both.family == "hf-metaclip2":
        pooled = out.last_hidden_state[torch.arange(3), (both.text["input_ids"] == 2).int().argmax(1)]
    else:
        pooled = out.last_hidden_state[:, 0]
    torch.testing.assert_close(features.levels[3][:, 0], pooled, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_padding_is_left_out_only_where_it_changes_nothing(both: Both) -> None:
    ids, _ = both.ours.tokenizer(TEXTS[:1])
    trimmed = both.ours.text.trim(ids)
    assert (trimmed.shape[1] < ids.shape[1]) == ("siglip" not in both.family)
    torch.testing.assert_close(both.ours.text.encode(trimmed), both.ours.text.encode(ids), atol=1e-5, rtol=1e-5)


def test_dropout_is_off_in_eval_mode_and_stays_the_models_own_in_training(tmp_path: Path) -> None:
    tower: DualEncoder = load_tower(TowerConfig(model=hf.vit_bert(tmp_path / "folder")))
    inputs = toy.inputs(tower, 2)
    assert torch.equal(tower.encode_texts(TEXTS), tower.encode_texts(TEXTS))
    tower.train()
    assert not torch.equal(tower.final(inputs).text, tower.final(inputs).text), "BERT drops a tenth in training"
    tower.encode_images(inputs.images)
    assert tower.native.training, "encoding puts the mode back"
