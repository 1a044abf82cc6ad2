"""Towers as ONNX: batch size free, agreement measured, a missing package named."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP
from torch import nn

from cmapkd.core.errors import UsageError
from cmapkd.export import onnx

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
VISION = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1}


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return CLIP(8, dict(VISION), dict(TEXT))


@pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in onnx.NEEDED), reason="cmapkd[onnx] absent")
def test_both_graphs_take_raw_inputs_of_any_batch_and_agree_with_pytorch(tmp_path: Path) -> None:
    import onnxruntime

    clip = tiny().train()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    image, text = onnx.export_onnx(clip, MEAN, STD, 16, 8, 40, tmp_path)
    assert clip.training and torch.backends.mha.get_fastpath_enabled() == fastpath
    for exported in (image, text):
        assert exported.max_difference < 1e-5 and exported.min_cosine > 0.99999
        assert exported.path.name in exported.line()
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(str(image.path), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])
    normal = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = clip.eval().encode_image(normal, normalize=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in onnx.NEEDED), reason="cmapkd[onnx] absent")
def test_a_graph_that_disagrees_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing written"):
        onnx.export_onnx(tiny(), MEAN, STD, 16, 8, 40, tmp_path, tolerance=-1)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(UsageError, match=r"no_such_package.*cmapkd\[onnx\]"):
        onnx.export_onnx(tiny(), MEAN, STD, 16, 8, 40, tmp_path)
