"""Images inside containers decode like the same images in files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmapkd.data.images import Unreadable, decode
from cmapkd.data.loader import read_images
from cmapkd.data.samples import Samples
from cmapkd.data.stored import Member, Region, stored_length


def noise(size: tuple[int, int] = (28, 20)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def member(tmp_path: Path) -> Member:
    data = noise()
    (tmp_path / "box").write_bytes(b"before" + data + b"after")
    (tmp_path / "a.png").write_bytes(data)
    return Member(tmp_path / "box", "box/a.png", 6, len(data))


def test_a_member_is_the_picture_of_its_file_bit_for_bit(member: Member, tmp_path: Path) -> None:
    np.testing.assert_array_equal(np.asarray(decode(member)), np.asarray(decode(tmp_path / "a.png")))
    both = [Samples("x", ("a",), (place,), (("one",),)) for place in (member, tmp_path / "a.png")]
    assert both[0].fingerprint() == both[1].fingerprint()
    assert (read_images(both[0], range(1), 16) == read_images(both[1], range(1), 16)).all()


def test_a_container_that_shrank_or_left_is_unreadable_with_the_reason(member: Member) -> None:
    member.path.write_bytes(member.path.read_bytes()[:40])
    with pytest.raises(Unreadable, match=r"box/a\.png: cut off: 34 of \d+ bytes"):
        decode(member)
    member.path.unlink()
    assert stored_length(member) == -1
    with pytest.raises(Unreadable):
        decode(member)


@pytest.mark.parametrize(("data", "words"), [(b"", "empty"), (b"no picture", "cannot identify image file$")])
def test_a_member_that_is_no_picture_says_so_without_a_place_in_memory(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "box").write_bytes(data)
    with pytest.raises(Unreadable, match=words):
        decode(Member(tmp_path / "box", "x", 0, len(data)))


def test_a_region_is_cut_out_of_the_resized_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(noise((40, 20)))
    whole = np.asarray(decode(tmp_path / "a.png"))
    region = Region(tmp_path / "a.png", (20, 10, 40, 10), (80, 40))
    np.testing.assert_array_equal(np.asarray(decode(region)), whole[5:10, 10:30])
    np.testing.assert_array_equal(np.asarray(decode(Region(tmp_path / "a.png", (1, 2, 3, 4)))), whole[2:6, 1:4])


@pytest.mark.parametrize("box", [(-5, -5, 3, 3), (100, 100, 5, 5), (39.9, 19.9, 0.1, 0.1), (-9, -9, 900, 900)])
def test_a_region_outside_its_picture_is_at_least_a_pixel_of_it(tmp_path: Path, box: tuple) -> None:
    (tmp_path / "a.png").write_bytes(noise((40, 20)))
    width, height = decode(Region(tmp_path / "a.png", box)).size
    assert 1 <= width <= 40 and 1 <= height <= 20
