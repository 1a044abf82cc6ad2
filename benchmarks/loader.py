"""Ratio i: images decoded and augmented per second and core, ours against open_clip's training transform."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.contenders import interleaved, ratio_row
from cmapkd.data.images import decode
from cmapkd.data.views import View, render, view_of

SIZE, WIDTH, HEIGHT = 224, 640, 480


def run(quick: bool = True) -> list[dict[str, Any]]:
    """One row; both sides decode the same JPEG files, interleaved."""
    import open_clip

    torch.set_num_threads(1)
    theirs = open_clip.image_transform(SIZE, is_train=True)
    count, rounds = (24, 3) if quick else (100, 5)
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder), count)
        sides: dict[str, Callable[[], object]] = {
            "ours": lambda: [render(decode(f), view_of(k, 0, 2, (0.9, 1.0), False), SIZE) for k, f in enumerate(files)],
            "open_clip": lambda: [theirs(Image.open(f)) for f in files],
        }
        seconds = interleaved(rounds, sides)
        agree(files[0])
    best = {name: count / min(values) for name, values in seconds.items()}
    detail = (
        f"JPEG {WIDTH}×{HEIGHT} to {SIZE}, images/s/core: ours {best['ours']:.0f}, open_clip {best['open_clip']:.0f}"
    )
    name = "decode and augment, ours / open_clip's transform"
    return [ratio_row("i", name, best["ours"] / best["open_clip"], 2.4, ">=", detail)]


def agree(file: Path) -> None:
    """Raise where the whole image, resized by both, differs by more than two grey levels on average."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    image = Image.open(file).convert("RGB")
    ours = torch.from_numpy(render(image, View(), SIZE)).float()
    photo: Any = image  # torchvision's stub knows tensors only
    resized = np.array(resize(photo, [SIZE, SIZE], InterpolationMode.BICUBIC))
    theirs = torch.from_numpy(resized).permute(2, 0, 1).float()
    difference = float((ours - theirs).abs().mean())
    if difference > 2.0:
        raise AssertionError(f"our resize differs from torchvision's by {difference:.2f} grey levels on average")


def photographs(folder: Path, count: int) -> list[Path]:
    """JPEG files with about the detail of photographs: noise of several scales."""
    rng, files = np.random.default_rng(0), []
    for k in range(count):
        layers = [
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (HEIGHT // s, WIDTH // s, 3), dtype=np.uint8)).resize(
                    (WIDTH, HEIGHT)
                )
            )
            for s in (4, 16, 64)
        ]
        buffer = io.BytesIO()
        Image.fromarray(np.mean(layers, axis=0).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        files.append(folder / f"{k}.jpg")
        files[-1].write_bytes(buffer.getvalue())
    return files
