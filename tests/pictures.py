"""Small picture files and captions files for the tests of readers and loaders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from cmapkd.config.schema import DataConfig
from cmapkd.config.tree import read
from cmapkd.data.samples import Samples


def picture(path: Path, colour: tuple[int, int, int] = (200, 40, 40), size: tuple[int, int] = (24, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def coco(folder: Path, captions: dict[str, list[str]], images: str = "images") -> Path:
    """A COCO captions file in `folder`, and a picture for every name."""
    for name in captions:
        picture(folder / images / name)
    content = {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(captions)],
        "annotations": [
            {"image_id": k, "caption": text} for k, texts in enumerate(captions.values()) for text in texts
        ],
    }
    path = folder / "captions.json"
    path.write_text(json.dumps(content))
    return path


def config(path: Path | str, **keys: object) -> DataConfig:
    return read(DataConfig, {"train": str(path), **keys}, "test")


def samples(folder: Path, n: int, captions: int = 3) -> Samples:
    """n pictures, each of its own colour and noise, with `captions` captions."""
    rng = np.random.default_rng(0)
    paths = []
    for k in range(n):
        pixels = rng.integers(0, 256, (20, 28, 3), dtype=np.uint8)
        paths.append(folder / f"{k}.png")
        Image.fromarray(pixels).save(paths[-1])
    ids = tuple(str(k) for k in range(n))
    return Samples("pictures", ids, tuple(paths), tuple(tuple(f"{k} {c}" for c in range(captions)) for k in range(n)))
