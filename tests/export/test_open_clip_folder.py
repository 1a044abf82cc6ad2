"""The exported folder, loaded by plain open_clip: the same bits, the same tokens, the right pooling, all or nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.export.open_clip_folder import CARD, CONFIG, WEIGHTS, exported_state, save_open_clip
from cmapkd.towers.tokens import tokenizer as tok

CAPTIONS = ["a small red dog runs over the green grass", "two dogs and a blue ball", "the ball is red", "a dog's ball"]
PREPROCESS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "interpolation": "bicubic", "resize_mode": "shortest"}
CONTEXT = 16


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tok.Tokenizer:
    return tok.train(CAPTIONS * 3, 96, CONTEXT, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def config(tokenizer: tok.Tokenizer) -> dict[str, Any]:
    assert tokenizer.folder is not None
    return {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {
            "context_length": CONTEXT, "vocab_size": tok.vocabulary(tokenizer.folder), "width": 32,
            "heads": 2, "layers": 2,
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def model(config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return CLIP(**copy.deepcopy(config)).eval()


@pytest.fixture
def folder(model: nn.Module, config: dict[str, Any], tokenizer: tok.Tokenizer, tmp_path: Path) -> Path:
    return save_open_clip(model, config, PREPROCESS, tokenizer.folder, tmp_path / "student", "# card")


@torch.no_grad()
def features(model: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return model.encode_image(images), model.encode_text(ids)


def test_plain_open_clip_loads_bit_identical_features(folder: Path, model: nn.Module, tokenizer: tok.Tokenizer) -> None:
    loaded, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    ids = tokenizer(CAPTIONS)[0]
    for ours, theirs in zip(features(model, ids), features(loaded.eval(), ids), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(model.logit_scale, loaded.logit_scale)
    assert (tuple(transform.transforms[-1].mean), tuple(transform.transforms[-1].std)) == (
        PREPROCESS["mean"],
        PREPROCESS["std"],
    )


def test_open_clip_finds_the_tokenizer_and_reads_the_same_ids(folder: Path, tokenizer: tok.Tokenizer) -> None:
    theirs = open_clip.get_tokenizer(f"local-dir:{folder}")
    texts = [*CAPTIONS, "an  unseen   Word,  with COMMAS", "", "dog " * 40]
    assert torch.equal(theirs(texts), tokenizer(texts)[0])


def test_pooling_by_argmax_finds_the_end_token_of_a_small_vocabulary(
    folder: Path, model: nn.Module, tokenizer: tok.Tokenizer
) -> None:
    loaded = open_clip.create_model(f"local-dir:{folder}").eval()
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    assert loaded.text_pool_type == "argmax"
    assert torch.equal(ids.argmax(1), (ids == tokenizer.end).int().argmax(1))
    changed = ids.clone()
    changed[:, -1] = 5  # after the end token: causal attention must not see it
    assert int(ids.argmax(1).max()) < CONTEXT - 1
    with torch.no_grad():
        assert torch.equal(loaded.encode_text(ids), loaded.encode_text(changed))


def test_half_precision_halves_the_file_and_loads(
    model: nn.Module, config: dict[str, Any], tokenizer: tok.Tokenizer, folder: Path, tmp_path: Path
) -> None:
    half = save_open_clip(model, config, PREPROCESS, tokenizer.folder, tmp_path / "half", "# card", torch.float16)
    assert (half / WEIGHTS).stat().st_size < 0.6 * (folder / WEIGHTS).stat().st_size
    loaded = open_clip.create_model(f"local-dir:{half}").eval()
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.logit_scale, model.logit_scale)
    ids = tokenizer(CAPTIONS)[0]
    for ours, theirs in zip(features(model, ids), features(loaded, ids), strict=True):
        assert torch.cosine_similarity(ours, theirs).min() > 0.9999
        assert not torch.equal(ours, theirs)


def test_weights_beyond_half_precision_are_refused(model: nn.Module) -> None:
    large = copy.deepcopy(model)
    with torch.no_grad():
        large.token_embedding.weight[0, 0] = 1e5
    with pytest.raises(UsageError, match=r"token_embedding\.weight holds values beyond"):
        exported_state(large, torch.float16)


def test_tied_and_transposed_tensors_are_written_whole() -> None:
    tied = nn.Module()
    tied.a = nn.Parameter(torch.randn(3, 4))
    tied.b = tied.a
    tied.c = nn.Parameter(torch.randn(4, 3).T)
    state = exported_state(tied)
    assert state["a"].data_ptr() != state["b"].data_ptr() and torch.equal(state["a"], state["b"])
    assert state["c"].is_contiguous() and torch.equal(state["c"], tied.c)


def test_the_folder_holds_config_weights_tokenizer_and_card(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        CONFIG,
        WEIGHTS,
        CARD,
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (folder / CARD).read_text() == "# card"
    assert json.loads((folder / CONFIG).read_text())["preprocess_cfg"]["mean"] == [0.4, 0.5, 0.6]


def test_a_model_with_clips_own_vocabulary_needs_no_tokenizer_files(tmp_path: Path, config: dict[str, Any]) -> None:
    own = copy.deepcopy(config)
    own["text_cfg"]["vocab_size"] = 49408
    folder = save_open_clip(CLIP(**copy.deepcopy(own)), own, PREPROCESS, None, tmp_path / "own", "")
    assert isinstance(open_clip.get_tokenizer(f"local-dir:{folder}"), open_clip.SimpleTokenizer)


def test_a_model_with_another_tokenizer_is_not_exported_without_it(
    model: nn.Module, config: dict[str, Any], tmp_path: Path
) -> None:
    named = copy.deepcopy(config)
    named["text_cfg"]["hf_tokenizer_name"] = "somebody/else"
    with pytest.raises(UsageError, match="somebody/else"):
        save_open_clip(model, named, PREPROCESS, None, tmp_path / "student", "")
    with pytest.raises(UsageError, match=r"has no tokenizer\.json"):
        save_open_clip(model, named, PREPROCESS, tmp_path, tmp_path / "student", "")
    assert not (tmp_path / "student").exists()


def test_an_existing_folder_is_not_overwritten(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        save_open_clip(model, config, PREPROCESS, None, folder, "other")
    assert (folder / WEIGHTS).read_bytes() == before


def test_a_failed_export_leaves_nothing_behind(
    model: nn.Module, config: dict[str, Any], tokenizer: tok.Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(fsio, "commit_dir", fail)
    with pytest.raises(OSError, match="disk full"):
        save_open_clip(model, config, PREPROCESS, tokenizer.folder, tmp_path / "student", "")
    assert list(tmp_path.iterdir()) == []


def test_the_callers_config_is_left_as_it_was(folder: Path, config: dict[str, Any]) -> None:
    assert "hf_tokenizer_name" not in config["text_cfg"]
    assert json.loads((folder / CONFIG).read_text())["model_cfg"]["text_cfg"]["hf_tokenizer_name"]
