"""Training in the order of shards: each epoch shows every sample once, and few shards are open at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cmapkd.data import sequence
from cmapkd.data.loader import InputSpec, Loader
from cmapkd.data.samples import Samples
from cmapkd.data.sequence import order_note, order_of, shard_bounds
from cmapkd.data.stored import Member
from pictures import config, samples


def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(len(texts), 2, dtype=torch.long), torch.zeros(len(texts), 2, dtype=torch.long)


def packed(folder: Path, n: int, each: int) -> Samples:
    """n pictures in tars of `each`."""
    plain = samples(folder, n)
    members = []
    for first in range(0, n, each):
        at, data = 0, b""
        for path in plain.paths[first : first + each]:
            assert isinstance(path, Path)
            members.append(Member(folder / f"{first}.tar", path.name, at, path.stat().st_size))
            data += path.read_bytes()
            at = len(data)
        (folder / f"{first}.tar").write_bytes(data)
    return Samples("packed", plain.ids, tuple(members), plain.captions)


def test_shards_are_the_files_that_hold_the_samples_of_the_pool(tmp_path: Path, monkeypatch) -> None:
    data = packed(tmp_path, 20, 6)
    assert shard_bounds(data, np.arange(20)).tolist() == [0, 6, 12, 18, 20]
    assert shard_bounds(data, np.array([0, 3, 7, 19])).tolist() == [0, 2, 3, 4]
    monkeypatch.setattr(sequence, "BLOCK", 8)
    assert shard_bounds(samples(tmp_path, 20), np.arange(20)).tolist() == [0, 8, 16, 20]


def test_batches_show_each_sample_once_read_few_shards_and_any_step_is_computed_alone(tmp_path: Path) -> None:
    data = packed(tmp_path, 24, 6)
    asked = config("x", order="sequential", window=6)
    it = Loader(data, asked, InputSpec(8, tokenize), None, 6, 3)
    epochs = []
    for epoch in range(2):
        batches = [it.batch(4 * epoch + k).samples for k in range(4)]
        assert sorted(torch.cat(batches).tolist()) == list(range(24))
        assert all(len(set((batch // 6).tolist())) == 1 for batch in batches)  # one shard a window here
        epochs.append(torch.cat(batches).tolist())
    assert epochs[0] != epochs[1]
    again = Loader(data, asked, InputSpec(8, tokenize), None, 6, 3)
    assert again.batch(6).samples.tolist() == epochs[1][12:18]
    stripes = [Loader(data, asked, InputSpec(8, tokenize), None, 6, 3, stripe=(k, 2)).batch(6).samples for k in (0, 1)]
    assert torch.stack(stripes, 1).flatten().tolist() == epochs[1][12:18]


def test_the_note_says_how_far_a_sample_may_move(tmp_path: Path) -> None:
    data = packed(tmp_path, 24, 6)
    note = order_note(order_of(data, config("x", order="sequential", window=12), np.arange(24)))
    assert "4 shards in a new order each epoch" in note and "windows of 12 samples (about 2 shards)" in note
    assert "at most 11 places" in note and order_note(order_of(data, config("x"), np.arange(24))) == ""
