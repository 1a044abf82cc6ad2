"""The tokenizer of a model folder is the one that open_clip reads there."""

from __future__ import annotations

import json
import shutil

import open_clip
import pytest
import torch

import toy
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.families.text_levels import text_features
from cmapkd.towers.named import identity, tokenizer_folder_of
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.towers.tokens.chosen import architecture_tokenizer, configured_tokenizer
from towers.tokens.toy_tokenizers import unigram, word_piece

TEXTS = ["don’t stop", "A dog &amp; a cat , here!", "x " * 40]


def model_config(**text):
    config = toy.config(49408, context=16)
    config["text_cfg"] |= text
    return config


def saved(folder, config):
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return folder


@pytest.mark.parametrize("kwargs", [{}, {"clean": "canonicalize"}, {"clean": "lower"}])
@pytest.mark.parametrize("named", [None, "bert-base-uncased"])
def test_ids_of_an_open_clip_folder_are_those_of_open_clip(tmp_path, named, kwargs):
    config = model_config(hf_tokenizer_name=named, tokenizer_kwargs=kwargs)
    folder = saved(word_piece(tmp_path / "m"), config)
    ours = architecture_tokenizer(config, "m", folder)
    assert torch.equal(ours(TEXTS)[0], open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS))
    assert tokenizer_folder_of(TowerConfig(model=str(folder))) == (folder if named else None)


def test_special_tokens_may_be_objects_and_a_tokenizer_without_any_is_framed(tmp_path):
    folder = word_piece(tmp_path)
    fast = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(fast))
    special = {"bos_token": {"content": "[CLS]"}, "eos_token": {"content": "[SEP]"}, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    ours = tok.from_folder(folder, 16)
    assert (ours.start, ours.end, ours.pad) == (2, 3, 0) and ours(["a dog"])[0][0, 0] == 2
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UsageError, match="no special tokens around a text"):
        tok.from_folder(folder, 16)


def test_a_tokenizer_that_would_be_downloaded_is_refused_unless_the_config_gives_its_folder(tmp_path):
    config = model_config(hf_tokenizer_name="timm/ViT-B-16-SigLIP", tokenizer_kwargs={"clean": "canonicalize"})
    with pytest.raises(UsageError, match="would have to be downloaded"):
        architecture_tokenizer(config, "ViT-B-16-SigLIP")
    choice = TowerConfig(model="ViT-B-16-SigLIP", tokenizer=str(unigram(tmp_path)))
    ours, folder = configured_tokenizer(choice, config, (), None, None)
    assert folder == tmp_path == tokenizer_folder_of(choice)
    assert torch.equal(ours(["A dog!"])[0], ours(["a dog"])[0])  # cleaned as the architecture's config says
    student, theirs = configured_tokenizer(
        TowerConfig(model="x", tokenizer="teacher"), model_config(), (), None, choice
    )
    assert theirs == folder and torch.equal(student(["a dog"])[0], ours(["a dog"])[0])


def test_the_files_of_a_given_tokenizer_are_part_of_the_identity(tmp_path):
    first = identity(TowerConfig(model="ViT-B-32", tokenizer=str(word_piece(tmp_path / "a"))))
    again = identity(TowerConfig(model="ViT-B-32", tokenizer=str(shutil.copytree(tmp_path / "a", tmp_path / "b"))))
    other = identity(TowerConfig(model="ViT-B-32", tokenizer=str(unigram(tmp_path / "c"))))
    assert first == again and first["tokenizer"] != other["tokenizer"]


def test_text_levels_without_words_are_finite_and_have_finite_gradients():
    groups = [torch.randn(2, 5, 8, requires_grad=True) for _ in range(3)]
    words, real = torch.full((2, 5), -1), torch.ones(2, 5, dtype=torch.bool)
    found = text_features(groups, groups[2][:, 0], torch.randn(2, 4), words, real, 6)
    total = sum(part.sum() for part in (*found.levels, *found.pooled))
    total.backward()
    assert total.isfinite() and all(group.grad is None or group.grad.isfinite().all() for group in groups)
    assert not found.masks[0].any() and not found.masks[1].any()
