"""Synthetic photographs as JPEG files with captions: smooth colours, edges and noise, so that decoding costs what photographs cost."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

CAPTION = "a photo of two dogs that run after a red ball on the beach"
DISTINCT = 32  # pictures that are drawn; the files repeat them, each as a file of its own


def write_pictures(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Write `count` JPEGs of (width, height) `size` and captions.csv beside them; gives that file."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    drawn = [_encoded(rng, size) for _ in range(min(count, DISTINCT))]
    lines = ["filepath,title"]
    for k in range(count):
        (folder / f"{k:05d}.jpg").write_bytes(drawn[k % len(drawn)])
        lines.append(f"{k:05d}.jpg,{CAPTION}")
    table = folder / "captions.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def _encoded(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    width, height = size
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse, dtype=np.float32)
    for _ in range(12):  # edges
        x, y = rng.integers(0, width), rng.integers(0, height)
        pixels[y : y + height // 4, x : x + width // 5] = rng.integers(0, 256, 3)
    pixels = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()
