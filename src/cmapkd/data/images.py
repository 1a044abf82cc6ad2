"""Decoding of untrusted image files: Pillow only, bombs refused before allocation, every failure an Unreadable."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps

MAX_PIXELS = 50_000_000


class Unreadable(Exception):
    """An image that cannot be used, with the reason; whoever reads many of them counts it and goes on."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def decode(path: Path) -> Image.Image:
    """The image as upright 8-bit RGB, its first frame if it has several. Raises Unreadable."""
    try:
        if path.stat().st_size == 0:
            raise Unreadable(path, "the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Unreadable(path, f"{image.width}×{image.height} pixels, more than {MAX_PIXELS // 10**6} million")
                if image.mode in ("I;16", "I;16B", "I"):
                    image = image.point(lambda v: v / 256).convert("L")  # noqa: PLW2901
                return ImageOps.exif_transpose(image).convert("RGB")
    except Unreadable:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types on broken bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unreadable(path, reason[:160]) from None
