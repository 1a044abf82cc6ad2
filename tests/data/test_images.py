"""Decoding gives an RGB image or a reason, for any bytes in a file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cmapkd.data import images
from cmapkd.data.images import Unreadable, decode
from pictures import picture

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8))


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    NOISE.save(out, kind)
    return out.getvalue()


SOURCES = {kind: encoded(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(SOURCES)),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=6),
    cut=st.floats(0, 1),
)
def test_flipped_bits_and_cut_files_never_crash(
    tmp_path_factory: pytest.TempPathFactory, kind: str, flips: list, cut: float
) -> None:
    data = bytearray(SOURCES[kind])
    for place, bit in flips:
        data[int(place * (len(data) - 1))] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(data if cut > 0.5 else data[: int(cut * 2 * len(data))])
    try:
        assert decode(path).mode == "RGB"
    except Unreadable as error:
        assert error.reason and "\n" not in error.reason and error.path == path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.new("L", (8, 8), 128)
    image = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)) if mode == "I;16" else grey.convert(mode)
    if mode == "I":
        image = Image.fromarray(np.full((8, 8), 128 * 257, np.int32))
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr", "I") else "x.png")
    image.save(path)
    out = np.asarray(decode(path))
    assert out.shape == (8, 8, 3)
    if mode != "1":
        assert np.abs(out.astype(int) - 128).max() <= 3


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(tmp_path / "x.gif"))[0, 0].tolist() == [255, 0, 0]


def test_a_rotated_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "x.jpg", exif=exif)
    assert decode(tmp_path / "x.jpg").size == (10, 20)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "x.png", size=(60, 60))
    monkeypatch.setattr(images, "MAX_PIXELS", 3000)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(Unreadable, match="60×60 pixels"):
        decode(tmp_path / "x.png")


@pytest.mark.parametrize("content", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_not_a_picture_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(Unreadable, match=r"empty|cannot identify"):
        decode(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["gone.jpg", "."])
def test_a_missing_file_or_a_folder_is_unreadable(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unreadable):
        decode(tmp_path / name)
