"""Safe decoding of untrusted image files with Pillow; every failure is an Unreadable."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from cmapkd.core.errors import CmapkdError
from cmapkd.data.stored import Picture, Region

MAX_PIXELS = 50_000_000
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "PPM",
    "JPEG2000",
)  # formats whose decoders run no other program
DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N"}

# Set once per process, because warnings.catch_warnings is not thread-safe.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class Unreadable(Exception):
    """An image that cannot be used, with the reason; loaders count it and continue."""

    def __init__(self, path: Picture, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def decode(path: Picture) -> Image.Image:
    """The image as upright 8-bit RGB; of several frames the first. Raises Unreadable."""
    if isinstance(path, Region):
        whole = decode(path.path)
        return whole.crop(path.corners(*whole.size))
    try:
        source = path if isinstance(path, Path) else io.BytesIO(path.read())
        if (source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes) == 0:
            raise Unreadable(path, "the file is empty")
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(path, f"{image.width}×{image.height} pixels, more than {MAX_PIXELS // 10**6} million")
            upright = image.convert("I").point(lambda v: v / 256).convert("L") if image.mode in DEEP else image
            upright.load()
            ImageOps.exif_transpose(upright, in_place=True)
            return upright if upright.mode == "RGB" else upright.convert("RGB")  # convert would copy an RGB image too
    except (Unreadable, CmapkdError):
        raise
    except Exception as error:
        raise Unreadable(path, reason_of(path, error)) from None


def reason_of(path: Picture, error: Exception) -> str:
    """One line that says why an image could not be read."""
    if isinstance(error, UnidentifiedImageError) and not isinstance(path, Path):
        return "cannot identify image file"  # Pillow's message holds a memory address
    return (str(error).splitlines()[0] if str(error) else type(error).__name__)[:160]
