"""The fast decoder agrees with Pillow about every image: nearly its pixels, and exactly its verdict on broken ones."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmapkd.core.errors import UsageError
from cmapkd.data import decoders
from cmapkd.data.decoders import rendered, views_key
from cmapkd.data.images import Unreadable, decode
from cmapkd.data.loader import InputSpec, Loader
from cmapkd.data.stored import Region
from cmapkd.data.views import View, view_of
from cmapkd.data.workers.job import Encoded
from pictures import config, samples

needs_simplejpeg = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("simplejpeg") is None, reason="simplejpeg is not installed"
)


def photograph(width: int = 160, height: int = 120, mode: str = "RGB", **how: object) -> bytes:
    """A smooth picture with some detail, as JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    layers = [128 + 100 * np.sin(x / 17 + k) * np.cos(y / 13 - k) for k in range(3)]
    image = Image.fromarray(np.stack(layers, axis=2).astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **how)
    return buffer.getvalue()


def verdict(data: bytes, decoder: str) -> list[np.ndarray] | str:
    try:
        return rendered(Encoded("x.jpg", data), View(), (32,), decoder)
    except Unreadable as error:
        return error.reason


@needs_simplejpeg
@pytest.mark.parametrize("size", [8, 20, 60, 119, 120, 200])
def test_pixels_are_nearly_those_of_pillow_at_every_scale(size: int) -> None:
    picture, view = Encoded("x.jpg", photograph()), view_of(3, 1, 4, (0.6, 1.0), True)
    ours, theirs = (rendered(picture, view, (size,), name)[0].astype(float) for name in ("simplejpeg", "pillow"))
    assert ours.shape == (3, size, size) and np.abs(ours - theirs).mean() < 3


@needs_simplejpeg
def test_an_image_larger_than_needed_is_decoded_at_a_smaller_scale_and_never_below_the_size(monkeypatch) -> None:
    import simplejpeg

    asked = []

    class Spy:
        @staticmethod
        def decode_jpeg(*given: object, **options: object) -> np.ndarray:
            asked.append(simplejpeg.decode_jpeg(*given, **options))
            return asked[-1]

    monkeypatch.setattr(decoders, "simplejpeg", lambda: Spy)
    rendered(Encoded("x.jpg", photograph()), View(0.25, 0, 0.75, 1), (30, 60, 500), "simplejpeg")
    assert [pixels.shape[:2] for pixels in asked] == [(45, 60), (90, 120), (120, 160)]


@needs_simplejpeg
def test_the_pixels_of_a_size_do_not_depend_on_the_other_sizes() -> None:
    picture = Encoded("x.jpg", photograph())
    both = rendered(picture, View(), (20, 100), "simplejpeg")
    for pixels, size in zip(both, (20, 100), strict=True):
        np.testing.assert_array_equal(pixels, rendered(picture, View(), (size,), "simplejpeg")[0])


@needs_simplejpeg
def test_what_it_cannot_do_goes_to_pillow(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    png = io.BytesIO()
    Image.new("RGB", (30, 20), (9, 99, 199)).save(png, "PNG")
    for data in (photograph(mode="CMYK"), photograph(exif=turned), png.getvalue()):
        np.testing.assert_array_equal(verdict(data, "simplejpeg"), verdict(data, "pillow"))
    (tmp_path / "x.jpg").write_bytes(photograph())
    region = Region(tmp_path / "x.jpg", (10, 10, 50, 50))
    for name in ("simplejpeg", "pillow"):
        np.testing.assert_array_equal(rendered(region, View(), (9,), name)[0], rendered(region, View(), (9,))[0])


@needs_simplejpeg
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_and_progressive_images_are_decoded(mode: str) -> None:
    data = photograph(mode=mode, progressive=True)
    ours, theirs = verdict(data, "simplejpeg"), verdict(data, "pillow")
    assert not isinstance(ours, str) and not isinstance(theirs, str)
    assert np.abs(ours[0].astype(float) - theirs[0]).mean() < 3


@needs_simplejpeg
def test_flipped_bytes_and_cuts_never_crash_and_pillow_refuses_no_image_that_is_kept() -> None:
    rng, data = np.random.default_rng(0), photograph(48, 40)
    refused, kept = 0, 0
    for k in range(400):
        broken = bytearray(data[: rng.integers(2, len(data))] if k % 4 == 0 else data)
        for _ in range(int(rng.integers(1, 6))):
            broken[rng.integers(len(broken))] = rng.integers(256)
        ours, theirs = verdict(bytes(broken), "simplejpeg"), verdict(bytes(broken), "pillow")
        if isinstance(theirs, str):
            assert ours == theirs
        else:
            assert not isinstance(ours, str)
        refused, kept = refused + isinstance(theirs, str), kept + (not isinstance(theirs, str))
    assert refused > 50 and kept > 50


def test_a_missing_package_is_one_line_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(UsageError, match=r"pip install 'cmapkd\[fast\]'; or set data.decoder: pillow") as caught:
        Loader(samples(tmp_path, 4), config("x", decoder="simplejpeg"), InputSpec(8, lambda texts: None), None, 2, 0)  # type: ignore[arg-type,return-value]
    assert "\n" not in str(caught.value)


def test_the_key_of_a_cache_names_a_decoder_that_is_not_the_default() -> None:
    assert views_key(config("x")) == "4 crop (0.6, 1.0) flip False"
    assert views_key(config("x", decoder="simplejpeg")) == "4 crop (0.6, 1.0) flip False decoder simplejpeg"


def test_the_default_decoder_gives_pillows_pixels(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(photograph())
    image = decode(tmp_path / "x.jpg").resize((20, 20), Image.Resampling.BICUBIC, box=(0, 0, 160, 120))
    np.testing.assert_array_equal(rendered(tmp_path / "x.jpg", View(), (20,))[0], np.asarray(image).transpose(2, 0, 1))
