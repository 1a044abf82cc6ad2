"""Costs against published figures, counted on the meta device where no weight is ever allocated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch import nn

from cmapkd.bench import efficiency

# Image and text GFLOP, and millions of parameters, of open_clip's architectures at 224 px and 77 tokens.
KNOWN = {
    "ViT-B-32": (8.82, 5.96, 151.28),
    "ViT-L-14": (162.03, 13.30, 427.62),
    "RN50": (12.22, 5.96, 102.01),
}


def on_meta(name: str) -> nn.Module:
    config: dict[str, Any] = open_clip.get_model_config(name)
    with torch.device("meta"):
        return CLIP(**config).eval()


def tiny() -> nn.Module:
    vision = {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    return CLIP(8, vision, {"context_length": 8, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1}).eval()


@pytest.mark.parametrize("name", KNOWN)
def test_flops_and_parameters_are_the_published_ones(name: str) -> None:
    image, text, millions = KNOWN[name]
    clip = on_meta(name)
    flops = efficiency.count_flops(clip, 224, 77)
    assert round(flops.image / 1e9, 2) == image
    assert round(flops.text / 1e9, 2) == text
    assert round(efficiency.parameters(clip)[0] / 1e6, 2) == millions


def test_fused_attention_is_counted_in_eval_mode_too() -> None:
    clip = tiny()
    width, layers, tokens, patch = 16, 2, 5, 8
    per_layer = 2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width
    patches = 2 * (tokens - 1) * 3 * patch**2 * width
    projection = 2 * width * 8
    assert efficiency.count_flops(clip, 16, 8).image == layers * per_layer + patches + projection
    assert torch.backends.mha.get_fastpath_enabled()


def test_token_embeddings_are_told_apart() -> None:
    every, towers, tokens = efficiency.parameters(tiny())
    assert tokens == 40 * 16
    assert towers.image + towers.text + 1 == every


def test_a_measured_model_says_everything_and_is_left_in_its_mode(tmp_path: Path) -> None:
    clip = tiny().train()
    file = tmp_path / "weights"
    file.write_bytes(b"0" * 2_000_000)
    found = efficiency.measure(clip, 16, 8, file, seconds=0.01)
    assert clip.training
    assert found.megabytes == 2
    assert found.params - found.params_without_tokens == 640
    assert found.macs.image * 2 == found.flops.image
    for latencies in (found.latency.image, found.latency.text):
        assert [each.batch for each in latencies] == [1, 32]
        assert all(0 < each.p50 <= each.p95 and each.runs >= 5 for each in latencies)
    assert found.peak_mb > 10
    text = "\n".join(found.lines())
    for part in ("without token embeddings", "2.0 MB", "GMAC", "p95", "threads"):
        assert part in text
    assert found.to_json()["macs"] == {"image": found.macs.image, "text": found.macs.text}


def test_the_peak_is_that_of_the_measured_work() -> None:
    device = torch.device("cpu")
    held = torch.ones(60_000_000, dtype=torch.uint8)
    high = efficiency.peak_megabytes(device)
    del held
    efficiency.reset_peak(device)
    low = efficiency.peak_megabytes(device)
    again = torch.ones(50_000_000, dtype=torch.uint8)
    assert efficiency.peak_megabytes(device) > low + 40
    assert again.sum() and high > low


def test_memory_of_an_unknown_device_is_not_invented() -> None:
    assert math.isnan(efficiency.peak_megabytes(torch.device("meta")))
