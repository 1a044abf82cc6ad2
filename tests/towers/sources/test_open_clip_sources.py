"""Models of open_clip read without the network: CoCa, Hugging Face text encoders, published pixels, and refusals in one line."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa
from tokenizers import Tokenizer

import toy
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.export.open_clip_folder import save_open_clip
from cmapkd.towers.load import load_tower
from cmapkd.towers.named import architecture_config, identity, image_size
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.sources.published import published_pixels
from cmapkd.towers.sources.weights import read_config
from cmapkd.towers.tokens import tokenizer as tok
from families.open_clip import BERT, FAMILIES, VIT


def opened(model: str):
    return load_tower(TowerConfig(model=model), words=8).eval()


def changed(model: str, part: str, **keys) -> str:
    """The model's folder with other values in one part of its config."""
    path = Path(model.removeprefix("local-dir:")) / "open_clip_config.json"
    config = read_config(path)
    config["model_cfg"][part].update(keys)
    path.write_text(json.dumps(config))
    return model


@torch.no_grad()
def test_coca_gives_its_own_embeddings_and_is_saved_without_its_decoder(tmp_path):
    model = FAMILIES["open_clip-coca"](tmp_path / "coca")
    whole = open_clip.create_model(model, load_weights=True).eval()
    assert isinstance(whole, CoCa) and any("decoder" in name for name, _ in whole.named_parameters())
    tower = opened(model)
    x = toy.inputs(tower, 3)
    pixels = tower.normalise(x.images)
    torch.testing.assert_close(tower.final(x).image, whole.encode_image(pixels, normalize=False))
    torch.testing.assert_close(tower.final(x).text, whole.encode_text(x.ids, normalize=False))
    image = {"mean": list(toy.MEAN), "std": list(toy.STD)}
    saved = save_open_clip(tower.native, tower.package.config, image, tower.tokenizer.folder, tmp_path / "saved", "toy")
    again = open_clip.create_model(f"local-dir:{saved}", load_weights=True).eval()
    assert not any("decoder" in name for name, _ in again.named_parameters())
    assert torch.equal(again.encode_text(x.ids), tower.final(x).text)


@pytest.mark.parametrize("name", ["open_clip-roberta", "open_clip-mt5"])
@torch.no_grad()
def test_a_folder_with_a_hugging_face_encoder_opens_in_plain_open_clip_without_a_network(tmp_path, monkeypatch, name):
    tower = opened(FAMILIES[name](tmp_path / "model"))
    ids = tower.tokenizer(["a red star", "two small blue rings beside the tree"])[0]
    shutil.rmtree(tmp_path / "model-text")
    monkeypatch.chdir(tmp_path / "model")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was tried"))
    plain = open_clip.create_model("local-dir:.", load_weights=True).eval()
    torch.testing.assert_close(plain.encode_text(ids), tower.text.encode(ids), rtol=0, atol=1e-5)
    assert opened(f"local-dir:{tmp_path / 'model'}").text.widths == tower.text.widths


def test_the_encoders_config_belongs_to_a_models_identity(tmp_path):
    model = FAMILIES["open_clip-bert"](tmp_path / "bert")
    before, path = identity(TowerConfig(model=model)), tmp_path / "bert" / "text" / "config.json"
    assert "_name_or_path" not in path.read_text() and str(tmp_path) not in path.read_text()
    path.write_text(json.dumps({**read_config(path), "num_attention_heads": 4}))
    after = identity(TowerConfig(model=model))
    assert after["architecture"] != before["architecture"] and after["weights"] == before["weights"]


def test_python_code_of_an_encoders_folder_is_refused_and_never_imported(tmp_path):
    model = FAMILIES["open_clip-bert"](tmp_path / "bert")
    folder = tmp_path / "bert" / "text"
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    code = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({**read_config(folder / "config.json"), "auto_map": code}))
    with pytest.raises(UsageError, match="auto_map.*never run"):
        opened(model)
    assert not (tmp_path / "ran").exists()


def test_an_encoder_that_is_not_here_or_that_open_clip_does_not_know_is_refused_in_one_line(tmp_path):
    model = changed(FAMILIES["open_clip-bert"](tmp_path / "bert"), "text_cfg", hf_model_name="somebody/unheard-of")
    with pytest.raises(
        UsageError, match="somebody/unheard-of' is a Hugging Face model whose config.json is not"
    ) as caught:
        opened(model)
    assert "\n" not in str(caught.value) and "/bert/text" in str(caught.value)
    (tmp_path / "bert" / "text" / "config.json").write_text(json.dumps({**BERT, "model_type": "gpt2"}))
    with pytest.raises(UsageError, match="model_type 'gpt2' is not one that open_clip builds; it builds roberta"):
        opened(changed(model, "text_cfg", hf_model_name="text"))


@pytest.mark.parametrize(
    ("name", "millions"),
    [("roberta-ViT-B-32", 212.72), ("xlm-roberta-base-ViT-B-32", 366.12), ("nllb-clip-base", 501.89)],
)
def test_the_encoders_of_open_clips_own_architectures_are_built_in_their_published_sizes(name, millions):
    """The sizes are those of open_clip's table of models (docs/model_profile.csv)."""
    with torch.device("meta"):
        clip = build(architecture_config(name))
    assert round(sum(value.numel() for value in clip.parameters()) / 1e6, 2) == millions


@pytest.fixture
def named_roberta(tmp_path, monkeypatch):
    """An architecture by name, of a tiny RoBERTa whose config lies in a folder."""
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    Path("tiny/config.json").write_text(
        json.dumps({**BERT, "model_type": "roberta", "vocab_size": 500, "pad_token_id": 1})
    )
    text = {"hf_model_name": "tiny", "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear", "context_length": 16}
    Path("toy-roberta.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": VIT, "text_cfg": text}))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {})
    open_clip.add_model_config(tmp_path / "toy-roberta.json")
    return "toy-roberta"


def test_an_encoder_gets_the_vocabulary_and_padding_of_a_chosen_tokenizer(tmp_path, named_roberta):
    words = toy.tokenizer(tmp_path / "words")
    tower = load_tower(TowerConfig(model=named_roberta, tokenizer=str(tmp_path / "words")), words=8)
    config = tower.text.native.config
    assert (config.vocab_size, config.pad_token_id) == (tok.vocabulary(tmp_path / "words"), words.pad)
    assert tower(toy.inputs(tower, 2)).text.final.shape == (2, 24)


def test_a_tokenizer_that_pads_otherwise_than_the_encoder_is_refused(tmp_path):
    model = FAMILIES["open_clip-bert"](tmp_path / "bert")
    path = tmp_path / "bert" / "text" / "config.json"
    path.write_text(json.dumps({**read_config(path), "pad_token_id": 3}))
    with pytest.raises(UsageError, match="pad_token_id 3, but the tokenizer pads with 0"):
        opened(model)


def test_a_tower_that_pools_the_largest_id_is_built_to_pool_the_end_token_of_another_vocabulary(tmp_path):
    words = toy.tokenizer(tmp_path / "words")
    fast = Tokenizer.from_file(str(tmp_path / "words" / "tokenizer.json"))
    fast.add_special_tokens(["<mask>"])  # the largest id is no longer the end token's
    fast.save(str(tmp_path / "words" / "tokenizer.json"))
    tower = load_tower(TowerConfig(model="cmapkd-small-64", tokenizer=str(tmp_path / "words")), words=8).eval()
    assert tower.package.config["text_cfg"]["eos_id"] == tower.tokenizer.end == words.end
    ids, index = tower.tokenizer(["a red star"])
    changed_word = ids.clone()
    changed_word[0, 2] += 1
    with torch.no_grad():
        assert not torch.equal(tower.text.encode(ids), tower.text.encode(changed_word)), (
            "the end token has read the words"
        )
        pooled = tower.text.levels(ids, index).levels[3]
    assert pooled.shape == (1, 1, tower.text.widths[3])


def test_pixels_are_normalised_as_for_the_published_weights(capsys):
    assert published_pixels("ViT-B-16-SigLIP2-256", Path("w.bin")) == ((0.5,) * 3, (0.5,) * 3)
    assert published_pixels("MobileCLIP-S1", None) == ((0.0,) * 3, (1.0,) * 3)
    assert published_pixels("ViT-S-16", None) == published_pixels("cmapkd-small-64", None) == (None, None)
    assert published_pixels("ViT-B-32", Path("w.bin"))[0] == open_clip.OPENAI_DATASET_MEAN
    assert "warning" not in capsys.readouterr().err
    assert published_pixels("ViT-L-14", Path("laion2b_s32b_b82k.safetensors"))[0] == (0.5,) * 3
    assert published_pixels("ViT-L-14", Path("any.safetensors"))[0] == open_clip.OPENAI_DATASET_MEAN
    assert "laion2b_s32b_b82k" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "keys", "reason"),
    [
        ("vision_cfg", {"image_size": [32, 64]}, "images of 32 × 64 pixels.*square"),
        ("vision_cfg", {"pool_type": "none"}, "embedding of each patch and none of the image"),
        ("text_cfg", {"pool_type": "none"}, "embedding of each token and none of the text"),
        ("vision_cfg", {"colour": "blue"}, "cannot build this model_cfg .*colour"),
        ("vision_cfg", {"timm_model_name": "levit_128", "image_size": 224}, "LevitDistilled: it has 3 stages.*P2..P5"),
        ("vision_cfg", {"timm_model_name": "toy_eva02", "image_size": 64}, "no levels of an image of 64 × 64 pixels"),
    ],
    ids=["not-square", "patches", "tokens", "unknown-key", "three-stages", "other-size"],
)
def test_a_model_that_cannot_be_read_is_refused_with_the_reason(tmp_path, monkeypatch, part, keys, reason):
    monkeypatch.setattr("cmapkd.towers.sources.open_clip.load_strict", lambda *_: None)
    model = changed(FAMILIES["open_clip-vit"](tmp_path / "vit"), part, **keys)
    with pytest.raises(UsageError, match=reason) as caught:
        opened(model)
    assert "\n" not in str(caught.value)
    if "image_size" in keys and keys["image_size"] != 64 and keys["image_size"] != 224:
        with pytest.raises(UsageError, match=reason):
            image_size(TowerConfig(model=model))
