"""Devices and precisions by name: usable on this machine, or refused in one line."""

from contextlib import nullcontext

import pytest
import torch

from cmapkd.core.device import pick_device, pick_precision
from cmapkd.core.errors import UsageError


def test_a_device_that_is_not_here_is_refused_in_one_line():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="'gpu0' is not a device"):
        pick_device("gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="'cuda' cannot be used here") as caught:
            pick_device("cuda")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "native", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("fp32", True, torch.float32),
    ],
)
def test_auto_is_bf16_only_on_a_gpu_that_computes_in_it(monkeypatch, name, native, expected):
    asked = []

    def supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "device", lambda device: asked.append(device) or nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    second = torch.device("cuda", 1)
    assert pick_precision(name, second) == expected
    assert asked == ([second] if name == "auto" else [])


def test_auto_is_fp32_on_a_cpu():
    assert pick_precision("auto", torch.device("cpu")) == torch.float32
