"""Runs with Hugging Face models as teacher and as student: trained, written, reopened by plain transformers, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

import world
from cmapkd.config.schema import TowerConfig, TrainConfig
from cmapkd.core.errors import UsageError
from cmapkd.evaluation.efficiency import measure, parameters
from cmapkd.evaluation.encoders import Encoders
from cmapkd.export.run import export_run
from cmapkd.export.student_folder import save_student
from cmapkd.towers.load import load_tower
from cmapkd.train.optimizer import build_optimizer
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.prepare import build_cache
from families import hugging_face as hf

TEXTS = ["a red star above the tree", "two rings"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("siglip", "vit_bert"):
        getattr(hf, name)(root / name)
    return root


def config(root: Path, models: Path, method: str, teacher: str, student: str, **more: Any):
    return world.config(
        root, method=method, teacher__model=f"local-dir:{models / teacher}", student__model=f"local-dir:{models / student}",
        train__steps=2, train__checkpoint_every=2, **{"cache__path": None, "cache__grid": None, **more},
    )  # fmt: skip


def moved(before: Path, after: Path) -> float:
    """Largest change of a weight between two folders of one architecture."""
    first, second = (load_tower(TowerConfig(model=f"local-dir:{folder}")).native for folder in (before, after))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize(
    ("method", "teacher", "student"),
    [("cmapkd", "vit_bert", "siglip"), ("fitnet", "siglip", "vit_bert"), ("clip_kd", "vit_bert", "siglip")],
)
def test_a_trained_student_is_reopened_by_plain_transformers(
    method: str, teacher: str, student: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMAPKD_DATA", str(tmp_path / "data"))
    cached = {"cache__path": str(tmp_path / "cache")} if method == "cmapkd" else {}
    made = config(tmp_path, models, method, teacher, student, **cached)
    if cached:
        build_cache(made)
    run = distill(made)
    assert [row["loss"] for row in world.rows(run) if row["kind"] == "train"]
    assert moved(models / student, run / "student") > 1e-5
    for folder in (run / "student", run / "best"):
        ours = load_tower(TowerConfig(model=f"local-dir:{folder}"))
        theirs: Any = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
        words: Any = transformers.AutoTokenizer.from_pretrained(folder)
        padded = words(TEXTS, padding="max_length", max_length=hf.CONTEXT, return_tensors="pt")
        mask = {} if student == "siglip" else {"attention_mask": padded.attention_mask}
        images = torch.randint(0, 256, (2, 3, hf.SIZE, hf.SIZE), dtype=torch.uint8)
        with torch.no_grad():
            text = theirs.get_text_features(padded.input_ids, **mask).pooler_output
            image = theirs.get_image_features(ours.normalise(images)).pooler_output
        torch.testing.assert_close(ours.encode_texts(TEXTS), F.normalize(text, dim=-1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.encode_images(images), F.normalize(image, dim=-1), atol=1e-5, rtol=1e-5)
        card = (folder / "README.md").read_text()
        assert "library_name: transformers" in card and f"{type(theirs).__name__}.from_pretrained" in card


def test_a_copy_is_bit_equal_and_open_clip_refuses_it(models: Path, tmp_path: Path) -> None:
    tower = load_tower(TowerConfig(model=f"local-dir:{models / 'siglip'}"))
    save_student(tower, tmp_path / "copy", "card")
    again = load_tower(TowerConfig(model=f"local-dir:{tmp_path / 'copy'}"))
    images = torch.randint(0, 256, (2, 3, hf.SIZE, hf.SIZE), dtype=torch.uint8)
    assert torch.equal(again.encode_images(images), tower.encode_images(images))
    assert torch.equal(again.encode_texts(TEXTS), tower.encode_texts(TEXTS))
    assert again.image.mean == tower.image.mean
    export_run(tmp_path / "copy", ["hf"], tmp_path / "out")
    assert moved(tmp_path / "copy", tmp_path / "out" / "hf") == 0
    with pytest.raises(UsageError, match="is a SiglipModel of transformers.*export --to hf or onnx"):
        export_run(tmp_path / "copy", ["hf", "open_clip"], tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(UsageError, match="float32"):
        export_run(tmp_path / "copy", ["hf"], tmp_path / "other", "fp16")
    with pytest.raises(UsageError, match="exists already"):
        save_student(tower, tmp_path / "copy", "card")


def test_positions_class_tokens_and_scales_do_not_decay(models: Path) -> None:
    for name, still in (
        ("vit_bert", {"cls_token", "position_embeddings", "text_model.embeddings.position_embeddings.weight"}),
        ("siglip", {"vision_model.head.probe", "text_model.embeddings.position_embedding.weight"}),
    ):
        native = load_tower(TowerConfig(model=f"local-dir:{models / name}")).native
        decaying, rest = (
            set(map(id, group["params"])) for group in build_optimizer(native, TrainConfig(steps=1)).param_groups
        )
        names = {name: id(p) for name, p in native.named_parameters()}
        assert all(any(full.endswith(part) and names[full] in rest for full in names) for part in still)
        assert all(names[full] in rest for full, p in native.named_parameters() if p.ndim < 2)
        kept = [full for full in names if names[full] in decaying]
        assert any("word_embeddings" in full or "token_embedding" in full for full in kept)
        assert not any("position" in full or "logit" in full for full in kept)


def test_costs_are_measured_through_the_towers(models: Path) -> None:
    tower = load_tower(TowerConfig(model=f"local-dir:{models / 'vit_bert'}"))
    every, parts, tokens = parameters(Encoders(tower))
    assert every == parts.image + parts.text + 1 == sum(p.numel() for p in tower.native.parameters())
    assert tokens == hf.VOCABULARY * 32
    found = measure(Encoders(tower), tower.size, tower.tokenizer.context, seconds=0.01)
    assert found.flops.image > 0 and found.flops.text > 0
