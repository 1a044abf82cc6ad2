"""The simulation of many ranks uses the loader's own rule, finds a wrong order, and its page is up to date."""

from __future__ import annotations

import numpy as np
import pytest

import world
from benchmarks import scale
from cmapkd.data.loader import InputSpec, Loader
from cmapkd.data.readers import open_samples
from cmapkd.towers.load import load_tower


def test_the_simulated_stripes_are_those_of_the_loader(root):
    config = world.config(root)
    samples = open_samples(config.data.train, config.data, config.data.train_split)
    tower = load_tower(config.teacher)
    for world_size in (1, 2, 4):
        for rank in range(world_size):
            spec = InputSpec(tower.size, tower.tokenizer)
            loader = Loader(samples, config.data, spec, None, 8, scale.SEED, stripe=(rank, world_size))
            for step in (0, 7, 20):
                wanted = scale.stripe(step, rank, world_size, len(samples), 8)
                assert loader.batch(step).samples.tolist() == wanted.tolist()


def test_every_sample_is_drawn_once_and_alike_whatever_the_number_of_ranks():
    found = scale.check_order(10_007, 256, (1, 2, 8, 64), looks=8)
    assert (found.drawn, found.repeated) == (10_007 // 256 * 256, 0)
    assert found.same and found.resumed and found.least == found.most == 39 * 4


def test_an_order_that_repeats_samples_is_found(monkeypatch):
    monkeypatch.setattr(scale, "permute", lambda slots, n, seed, epoch: np.minimum(slots, n - 500))
    assert scale.check_order(10_007, 256, (1, 2)).repeated > 200
    with pytest.raises(RuntimeError, match="the order of samples is wrong"):
        scale.page((10_007,), 256, 3.0, "a test")


def test_the_page_holds_the_tables_of_the_present_layout_and_rates():
    text = (scale.ROOT / "docs" / "scale.md").read_text()
    for line in [*scale.cache_table(scale.PAIRS, 3.0), *scale.training_table(scale.PAIRS, 3.0)]:
        assert line in text, "run python -m benchmarks.scale"
