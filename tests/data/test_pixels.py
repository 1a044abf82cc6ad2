"""Stored pixels: the same batches without decoding, refused when they are of other views."""

import pytest
from msgspec import structs

import world
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.data import decoders
from cmapkd.data.images import Unreadable
from cmapkd.data.pixels import open_pixels, write_pixels
from cmapkd.data.readers import open_samples
from cmapkd.report.run_results import final_row
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.prepare import build_cache


def losses(run):
    rows = world.rows(run)
    return [row["loss"] for row in rows if row["kind"] == "train"]


def test_training_from_stored_pixels_decodes_nothing_and_is_the_same_to_the_bit(root, monkeypatch):
    over = {"train__steps": 4, "data__val": None, "eval__every": None}
    plain = distill(world.config(root, run=str(root / "decoded"), **over))
    config = world.config(root, run=str(root / "stored"), cache__pixels=True, **over)
    build_cache(config)

    def refuse(path):
        raise AssertionError(f"{path} was decoded")

    monkeypatch.setattr(decoders, "decode", refuse)
    assert losses(distill(config)) == losses(plain)
    assert final_row(config.run)["ledger"] == final_row(plain)["ledger"]


def test_an_unreadable_image_has_no_stored_pixels(root, monkeypatch, tmp_path):
    config = world.config(root, cache__path=str(tmp_path / "cache"), cache__pixels=True, data__val=None)
    samples = open_samples(config.data.train, config.data)
    real = decoders.decode

    def one_bad(path):
        if path == samples.paths[3]:
            raise Unreadable(path, "cut off")
        return real(path)

    monkeypatch.setattr(decoders, "decode", one_bad)
    write_pixels(samples, config.data, config.cache, 32)
    read = open_pixels(samples, config.data, config.cache, 32)
    assert read is not None and read(3, 0) is None and read(3, 1) is None
    stored = read(2, 1)
    assert stored is not None and stored.shape == (3, 32, 32)


def test_pixels_of_other_views_are_refused_and_missing_ones_are_said(root, tmp_path):
    config = world.config(root, cache__path=str(tmp_path / "cache"), cache__pixels=True, data__val=None)
    samples = open_samples(config.data.train, config.data)
    with pytest.raises(UsageError, match="cmapkd cache"):
        open_pixels(samples, config.data, config.cache, 32)
    write_pixels(samples, config.data, config.cache, 32)
    other = structs.replace(config.data, crop=(0.2, 1.0))
    with pytest.raises(IntegrityError, match="'views'"):
        open_pixels(samples, other, config.cache, 32)
