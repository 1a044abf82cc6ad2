"""A view is the same crop in every run, and is rendered as that crop."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cmapkd.data.views import View, plain, render, view_of

CROP = (0.6, 1.0)


@settings(max_examples=200, deadline=None)
@given(sample=st.integers(0, 10**7), view=st.integers(0, 7), low=st.floats(0.2, 0.95))
def test_a_view_lies_in_the_image_and_has_the_area_asked_for(sample: int, view: int, low: float) -> None:
    it = view_of(sample, view, 8, (low, 1.0), True)
    width, height = it.right - it.left, it.bottom - it.top
    assert 0 <= it.left < it.right <= 1 and 0 <= it.top < it.bottom <= 1
    assert low * 0.86 <= width * height <= 1 and 0.7 < width / height < 1.4


def test_a_view_is_the_same_in_every_run_and_differs_from_its_siblings() -> None:
    assert view_of(5, 1, 4, CROP, False) == view_of(5, 1, 4, CROP, False)
    assert len({view_of(s, v, 4, CROP, False) for s in range(5) for v in range(4)}) == 20


def test_the_only_view_of_a_single_view_data_set_is_the_whole_image() -> None:
    assert view_of(3, 0, 1, CROP, True) == View()


def test_nothing_is_mirrored_unless_asked() -> None:
    assert not any(view_of(s, 0, 4, CROP, False).flip for s in range(50))
    assert 10 < sum(view_of(s, 0, 4, CROP, True).flip for s in range(50)) < 40


def test_a_crop_shows_its_quarter_and_a_flip_mirrors_it() -> None:
    quarters = np.zeros((40, 60, 3), np.uint8)
    quarters[:20, 30:], quarters[20:, :30] = (255, 0, 0), (0, 255, 0)
    image = Image.fromarray(quarters)
    red = render(image, View(0.5, 0.0, 1.0, 0.5), 8)
    assert red.shape == (3, 8, 8) and red.dtype == np.uint8 and red[0].min() > 200 and red[1].max() < 30
    assert (render(image, View(flip=True), 16) == render(image, View(), 16)[:, :, ::-1]).all()


def test_reducing_is_antialiased() -> None:
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = render(Image.fromarray(np.stack([board] * 3, -1).astype(np.uint8)), View(), 8)
    assert np.abs(small.astype(int) - 127).max() < 20


def test_the_plain_view_is_the_shortest_side_resized_and_the_centre_cropped() -> None:
    rng = np.random.default_rng(0)
    wide = Image.fromarray(rng.integers(0, 256, (20, 60, 3), dtype=np.uint8))
    for image, resized, box in (
        (wide, (30, 10), (10, 0, 20, 10)),
        (wide.transpose(Image.Transpose.ROTATE_90), (10, 30), (0, 10, 10, 20)),
    ):
        reference = np.asarray(image.resize(resized, Image.Resampling.BICUBIC).crop(box)).transpose(2, 0, 1)
        assert np.abs(plain(image, 10).astype(int) - reference).max() <= 1
    square = Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8))
    assert (plain(square, 12) == render(square, View(), 12)).all()
