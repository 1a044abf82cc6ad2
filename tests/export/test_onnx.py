"""Towers as ONNX: batch size free, agreement measured, a missing package or a tower that cannot be traced named."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import toy
from cmapkd.core.errors import UsageError
from cmapkd.export import onnx
from cmapkd.towers.dual import DualEncoder

absent = any(importlib.util.find_spec(name) is None for name in onnx.NEEDED)


def tiny(folder: Path) -> DualEncoder:
    return toy.tower(folder / "tok", width=16, layers=3, size=16)


@pytest.mark.skipif(absent, reason="cmapkd[onnx] absent")
def test_both_graphs_take_raw_inputs_of_any_batch_and_agree_with_pytorch(tmp_path: Path) -> None:
    import onnxruntime

    tower = tiny(tmp_path).train()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    image, text = onnx.export_onnx(tower, tmp_path / "onnx")
    assert tower.training and torch.backends.mha.get_fastpath_enabled() == fastpath
    for exported in (image, text):
        assert exported.max_difference < 1e-5 and exported.min_cosine > 0.99999
        assert exported.path.name in exported.line()
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(str(image.path), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])
    normal = (pixels / 255 - torch.tensor(toy.MEAN).view(3, 1, 1)) / torch.tensor(toy.STD).view(3, 1, 1)
    with torch.no_grad():
        expected = F.normalize(tower.eval().native.encode_image(normal), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(absent, reason="cmapkd[onnx] absent")
def test_a_graph_that_disagrees_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing written"):
        onnx.export_onnx(tiny(tmp_path), tmp_path / "onnx", tolerance=-1)
    assert list((tmp_path / "onnx").iterdir()) == []


@pytest.mark.skipif(absent, reason="cmapkd[onnx] absent")
def test_a_tower_that_cannot_be_traced_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = tiny(tmp_path)
    encode = tower.image.encode
    monkeypatch.setattr(tower.image, "encode", lambda pixels: encode(pixels[: int(pixels.max()) + 9]), raising=True)
    with pytest.raises(UsageError, match="the image tower cannot be traced"):
        onnx.export_onnx(tower, tmp_path / "onnx")
    assert list((tmp_path / "onnx").iterdir()) == []


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(UsageError, match=r"no_such_package.*cmapkd\[onnx\]"):
        onnx.export_onnx(tiny(tmp_path), tmp_path / "onnx")
