"""Views of an image rendered by the decoder of data.decoder; part of the key of every cache of such views."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import CmapkdError, UsageError
from cmapkd.data.images import MAX_PIXELS, decode
from cmapkd.data.stored import Picture, Region
from cmapkd.data.views import View, render

ORIENTATION = 0x0112  # EXIF tag; 1 is upright


def rendered(picture: Picture, view: View, sizes: Sequence[int], decoder: str = "pillow") -> list[np.ndarray]:
    """uint8 [3, size, size] of a view at each size. Raises Unreadable.

    simplejpeg decodes a JPEG for each size at the smallest of libjpeg-turbo's scales (eighths) that is not below it, so that
    the pixels of a size do not depend on the others; whatever it refuses goes to Pillow, which has the last word.
    """
    if decoder == "simplejpeg" and (found := _scaled(picture, view, sizes, simplejpeg())) is not None:
        return found
    image = decode(picture)
    return [render(image, view, size) for size in sizes]


def simplejpeg() -> Any:
    """The package simplejpeg. Raises UsageError when it is not installed."""
    try:
        import simplejpeg as library
    except ImportError:
        raise UsageError(
            "data.decoder: simplejpeg needs a package: pip install 'cmapkd[fast]'; or set data.decoder: pillow"
        ) from None
    return library


def views_key(data: DataConfig) -> str:
    """Cache key of the views: their number, crop, flip and decoder; the default decoder is not named, as in older caches."""
    named = "" if data.decoder == "pillow" else f" decoder {data.decoder}"
    return f"{data.views} crop {data.crop} flip {data.flip}{named}"


def _scaled(picture: Picture, view: View, sizes: Sequence[int], library: Any) -> list[np.ndarray] | None:
    """The view at each size from an upright RGB or grey JPEG; None for any other image, a broken one too."""
    if isinstance(picture, Region):
        return None
    try:
        data = picture.read_bytes() if isinstance(picture, Path) else picture.read()
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
            (width, height), upright = header.size, header.getexif().get(ORIENTATION, 1) == 1
            if header.mode not in ("RGB", "L") or not upright or width * height > MAX_PIXELS:
                return None
        found = []
        for size in sizes:
            least_width = min(width, math.ceil(size / (view.right - view.left)))
            least_height = min(height, math.ceil(size / (view.bottom - view.top)))
            pixels = library.decode_jpeg(data, "RGB", min_height=least_height, min_width=least_width)
            found.append(render(Image.fromarray(pixels), view, size))
        return found
    except CmapkdError:
        raise
    except Exception:
        return None
