"""A student exported from its run: loaded back by the project and by plain open_clip, replaced when exported again."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.export.run import export_student
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower

CAPTIONS = ["a small red dog runs over the green grass", "two dogs and a blue ball", "the ball is red"] * 3
FACTS = {
    "method": "cmapkd", "teacher": "ViT-L-14", "student": "cmapkd-small-64", "data": "scenes/train",
    "fingerprint": "f00d",
    "scores": {"mean_recall@1": 0.5}, "command": "cmapkd distill", "steps": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    torch.manual_seed(0)
    config = TowerConfig(model="cmapkd-small-64", tokenizer="train:96")
    return load_tower(config, CAPTIONS, tmp_path_factory.mktemp("tokenizer"))


def test_an_exported_student_says_the_same_in_the_project_and_in_plain_open_clip(
    student: DualEncoder, tmp_path: Path
) -> None:
    folder = export_student(student, tmp_path / "student", FACTS)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    again = load_tower(TowerConfig(model=f"local-dir:{folder}"))
    assert torch.equal(again.encode_images(images), student.encode_images(images))
    assert torch.equal(again.encode_texts(CAPTIONS), student.encode_texts(CAPTIONS))
    plain = open_clip.create_model(f"local-dir:{folder}").eval()
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    with torch.inference_mode():
        assert torch.equal(plain.encode_text(ids, normalize=True), student.encode_texts(CAPTIONS))
    assert "M parameters" in (folder / "README.md").read_text()


def test_exporting_again_replaces_the_folder_unless_told_not_to(student: DualEncoder, tmp_path: Path) -> None:
    folder = export_student(student, tmp_path / "student", FACTS)
    export_student(student, folder, {**FACTS, "steps": 20})
    assert "steps: 20" in (folder / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    with pytest.raises(UsageError, match="exists already"):
        export_student(student, folder, FACTS, replace=False)
