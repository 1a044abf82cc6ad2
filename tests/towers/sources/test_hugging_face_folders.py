"""Hugging Face folders: strict weights in one file or shards, image sizes, random weights that are asked for, refusals in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers import named
from cmapkd.towers.load import load_tower
from cmapkd.towers.sources.hf_images import image_facts
from families import hugging_face as hf

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hf.siglip(tmp_path / "siglip")
    return tmp_path / "siglip"


def of(folder: Path, **more: Any) -> TowerConfig:
    return TowerConfig(model=f"local-dir:{folder}", **more)


def edit(path: Path, change: Edit) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_shards_and_half_precision_give_the_same_model_in_float32(folder: Path) -> None:
    whole = load_tower(of(folder))
    tensors = {name: value.bfloat16() for name, value in state(folder).items()}
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in named.weight_files(of(folder))] == sorted(shards)
    again = load_tower(of(folder))
    assert {p.dtype for p in again.native.parameters()} == {torch.float32}
    for (name, mine), theirs in zip(again.native.named_parameters(), whole.native.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.bfloat16().float(), msg=name)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UsageError, match=r"model-00002-of-00002\.safetensors is not among the folder's files"):
        load_tower(of(folder))


def test_an_index_that_names_a_shard_outside_its_folder_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    (folder / "other.safetensors").write_bytes(b"")
    names = {"one": "../other.safetensors", "two": "other.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(UsageError, match=r"shard \.\./other\.safetensors is not among the folder's files"):
        load_tower(of(folder))


def test_identity_size_and_files_are_read_without_the_model(folder: Path) -> None:
    before = named.identity(of(folder))
    assert named.image_size(of(folder)) == 32 == load_tower(of(folder)).size
    assert named.weight_files(of(folder)) == [folder / "model.safetensors"]
    assert named.tokenizer_folder_of(of(folder)) == folder
    tensors = state(folder)
    tensors["logit_scale"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    after = named.identity(of(folder))
    assert [key for key in before if before[key] != after[key]] == ["weights"]
    edit(folder / "preprocessor_config.json", lambda content: content.update(image_mean=[0.1, 0.2, 0.3]))
    assert named.identity(of(folder))["architecture"] != before["architecture"]
    assert load_tower(of(folder)).image.mean == (0.1, 0.2, 0.3)


def test_a_config_without_weights_is_random_only_where_that_is_asked_for(folder: Path, capsys) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no model\.safetensors; .*student\.weights: random"):
        load_tower(of(folder))
    random = of(folder, weights=Path("random"))
    torch.manual_seed(0)
    first, second = load_tower(random), load_tower(random)
    assert not torch.equal(first.encode_texts(["two rings"]), second.encode_texts(["two rings"]))
    assert named.identity(random)["weights"] == "random" and named.weight_files(random) == []
    named.warn_of_random(random, "teacher.model")
    assert "RANDOM WEIGHTS by teacher.weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", lambda c: c.update(auto_map={"AutoModel": "code.Model"}), "'auto_map'.*which is not run"),
        ("config.json", lambda c: c["vision_config"].update(auto_map={"a": "b"}), "'auto_map'"),
        ("config.json", lambda c: c.update(model_type="newclip"), "model_type 'newclip' .* is unknown.*siglip"),
        ("config.json", lambda c: c.update(model_type="bert"), "'bert' is no model of an image and a text tower"),
        ("config.json", lambda c: c.update(quantization_config={"bits": 4}), "quantised weights"),
        ("config.json", lambda c: c.update(_attn_implementation="kernels/flash"), "kernels of 'kernels/flash'"),
        ("config.json", lambda c: c["vision_config"].update(hidden_size="wide"), "config.json is no siglip config"),
        ("config.json", lambda c: c["vision_config"].update(image_size=[32, 64]), "only square images"),
        ("config.json", lambda c: c["text_config"].update(num_hidden_layers=2), "unexpected 16 .first: text_model"),
        ("config.json", lambda c: c["text_config"].update(num_hidden_layers=4), "missing 16 .first: text_model"),
        ("config.json", lambda c: c["text_config"].update(vocab_size=99), "of another shape 1 .first: text_model"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(folder: Path, file: str, change: Edit, said: str) -> None:
    edit(folder / file, change)
    with pytest.raises(UsageError, match=said) as caught:
        load_tower(of(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_weights_that_are_cut_off_or_of_an_adapter_are_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="is a file cut off"):
        load_tower(of(folder))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="adapter of another model"):
        load_tower(of(folder))


def test_blip_without_projections_is_refused_and_its_scale_is_kept(tmp_path: Path) -> None:
    hf.blip(tmp_path / "blip")
    assert load_tower(of(tmp_path / "blip")).similarity.scale.item() == pytest.approx(1 / 0.07)
    tensors = state(tmp_path / "blip") | {"logit_scale": torch.tensor(3.0)}
    save_file(tensors, tmp_path / "blip" / "model.safetensors", metadata={"format": "pt"})
    assert load_tower(of(tmp_path / "blip")).similarity.scale.item() == pytest.approx(torch.tensor(3.0).exp().item())
    edit(tmp_path / "blip" / "config.json", lambda c: c.update(architectures=["BlipForConditionalGeneration"]))
    with pytest.raises(UsageError, match="BlipForConditionalGeneration has no projections"):
        load_tower(of(tmp_path / "blip"))


def test_a_timm_architecture_that_is_a_place_is_refused(tmp_path: Path) -> None:
    hf.timm_bert(tmp_path / "timm")
    edit(tmp_path / "timm" / "config.json", lambda c: c["vision_config"].update(architecture="hf_hub:some/model"))
    with pytest.raises(UsageError, match="'hf_hub:some/model' is a place, not a name"):
        load_tower(of(tmp_path / "timm"))


def test_a_clip_folder_still_becomes_an_open_clip_model(tmp_path: Path) -> None:
    hf.clip(tmp_path / "clip")
    assert load_tower(of(tmp_path / "clip")).package.library == "open_clip"
    assert named.image_size(of(tmp_path / "clip")) == 32


@pytest.mark.parametrize(
    ("given", "size", "mean"),
    [
        ({}, 518, (0.485, 0.456, 0.406)),
        ({"size": 96, "crop_size": 64, "image_mean": 0.5, "image_std": 0.5}, 64, (0.5, 0.5, 0.5)),
        ({"size": {"shortest_edge": 80}, "do_center_crop": False, "crop_size": 64}, 80, (0.485, 0.456, 0.406)),
        ({"size": {"height": 48, "width": 48}, "do_normalize": False}, 48, (0.0, 0.0, 0.0)),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 518, (0.5, 0.5, 0.5)),
    ],
)
def test_size_and_mean_come_from_the_processor(tmp_path: Path, given: dict, size: int, mean: tuple) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    facts = image_facts(tmp_path, transformers.Dinov2Config(image_size=518))
    assert facts.size == size and facts.mean == pytest.approx(mean)
    fixed = image_facts(tmp_path, transformers.SiglipConfig(vision_config=hf.VISION))
    assert fixed.size == 32, "a tower of learnt positions reads one size whatever its processor says"
