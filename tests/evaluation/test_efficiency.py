"""Costs against published figures, counted on the meta device where no weight is ever allocated."""

from __future__ import annotations

import json
import math
import mmap
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch import nn

import world
from cmapkd.core.errors import UsageError
from cmapkd.core.types import Pair
from cmapkd.evaluation import efficiency

# Image and text GFLOP, and millions of parameters (all, image tower), of open_clip's architectures at 224 px and 77 tokens.
KNOWN = {
    "ViT-B-32": (8.82, 5.96, 151.28, 87.85),
    "ViT-B-16": (35.13, 5.96, 149.62, 86.19),
    "ViT-L-14": (162.03, 13.30, 427.62, 303.97),
    "RN50": (12.22, 5.96, 102.01, 38.32),
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
    image, text, millions, image_millions = KNOWN[name]
    clip = on_meta(name)
    flops = efficiency.count_flops(clip, 224, 77)
    assert round(flops.image / 1e9, 2) == image
    assert round(flops.text / 1e9, 2) == text
    every, towers, tokens = efficiency.parameters(clip)
    assert (round(every / 1e6, 2), round(towers.image / 1e6, 2)) == (millions, image_millions)
    assert tokens == 49408 * (768 if name == "ViT-L-14" else 512)


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
    found = efficiency.measure(clip, 16, 8, [file], seconds=0.01)
    assert clip.training
    assert found.megabytes == 2
    assert found.params - found.params_without_tokens == 640
    assert found.macs.image * 2 == found.flops.image
    for latencies in (found.latency.image, found.latency.text):
        assert [each.batch for each in latencies] == [1, 32]
        assert all(0 < each.p50 <= each.p95 and each.runs >= 5 for each in latencies)
    assert found.peak_mb > 10
    text = "\n".join(found.lines())
    for part in ("without token embeddings", "2.0 MB", "MMAC", "p95", "thread"):
        assert part in text
    assert (efficiency.giga(8.82e9), efficiency.giga(14_345_000)) == ("8.82 G", "14.3 M")
    assert found.to_json()["macs"] == {"image": found.macs.image, "text": found.macs.text}


def touched(size: int) -> mmap.mmap:
    """Memory of its own: an allocator may hand out pages that an earlier test has left resident."""
    held = mmap.mmap(-1, size)
    held.write(bytes(1) * size)
    return held


def test_the_peak_is_that_of_the_measured_work() -> None:
    device = torch.device("cpu")
    efficiency.reset_peak(device)
    held = touched(120_000_000)
    high = efficiency.peak_megabytes(device)
    held.close()
    efficiency.reset_peak(device)
    low = efficiency.peak_megabytes(device)
    again = touched(60_000_000)
    assert high > low + 40 and efficiency.peak_megabytes(device) > low + 40
    again.close()


def test_memory_of_an_unknown_device_is_not_invented() -> None:
    assert math.isnan(efficiency.peak_megabytes(torch.device("meta")))


def cost(params: int, flops: int, milliseconds: float) -> efficiency.Efficiency:
    times = tuple(
        efficiency.Latency(batch, milliseconds * batch, milliseconds * batch, 5) for batch in efficiency.BATCHES
    )
    return efficiency.Efficiency(
        params, params, Pair(params, 0), 1.0, Pair(flops, 1), Pair(times, times), 1.0, "cpu", 1
    )


def test_a_student_is_told_against_its_teacher() -> None:
    said = cost(28, 10, 2.0).against(cost(100, 40, 6.0))
    assert (
        said == "28.0 % of the parameters, 25.0 % of the image FLOPs, image speed 3.00× at batch 1, 3.00× at batch 32"
    )
    assert "batch 32: 2.00 ms each (of the batch p50 64.00 p95 64.00)" in "\n".join(cost(1, 1, 2.0).lines())


def test_hours_of_training_are_those_of_the_runs_own_log(tmp_path: Path) -> None:
    assert efficiency.train_hours(tmp_path) is None
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"kind": "start"}\n{"kind": "final", "seconds": 9000, "train_seconds": 7200}\n')
    assert efficiency.train_hours(tmp_path) == 2
    log.write_text('{"kind": "start"}\n{"kind": "final", "seconds": 9000}\n')  # resumed: only its last part was timed
    assert efficiency.train_hours(tmp_path) is None


def test_a_folder_is_measured_with_its_file_and_its_hours_and_kept_as_json(tmp_path: Path, monkeypatch, capsys) -> None:
    run = tmp_path / "run"
    world.teacher_folder(run / "student", seed=0, width=32)
    (run / "metrics.jsonl").write_text('{"kind": "final", "train_seconds": 1800}\n')
    monkeypatch.setattr(efficiency, "measure", partial(efficiency.measure, seconds=0.01))
    out = tmp_path / "costs.jsonl"
    efficiency.print_efficiency([str(run / "student"), str(run)], out)
    student, whole = (json.loads(line) for line in out.read_text().splitlines())
    size = (run / "student" / "open_clip_model.safetensors").stat().st_size
    assert student["megabytes"] == whole["megabytes"] == size / 1e6
    assert (student["train_hours"], whole["train_hours"]) == (None, 0.5)
    text = capsys.readouterr().out
    assert "trained in 0.50 h" in text and f"against {run / 'student'}: 100.0 % of the parameters" in text


def test_figures_that_could_not_be_written_are_not_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a new file"):
        efficiency.print_efficiency(["ViT-B-32"], tmp_path)
