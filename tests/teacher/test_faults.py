"""A planted fault: the same in every run, in the named level alone, and what learns of it turns away."""

from dataclasses import replace

import pytest
import torch

import world
from cmapkd.core.errors import UsageError
from cmapkd.core.types import LEVELS, Batch, Inputs, Needs
from cmapkd.data.noise import Swap
from cmapkd.data.readers import open_samples
from cmapkd.teacher.faults import CorruptedTeacher
from cmapkd.teacher.reopen import open_cached_teacher
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.prepare import build_cache

ALL = Needs(teacher=True, levels=LEVELS, bridge=True)


@pytest.fixture
def taught(root):
    config = world.config(root)
    samples = open_samples(config.data.train, config.data, None)
    teacher = open_cached_teacher(config.teacher, config.data, config.cache, samples)[0]
    rows, nothing = torch.tensor([3, 7, 11, 40]), torch.empty(0)
    captions = torch.from_numpy(samples.caption_offsets)[rows] + 1
    return samples, teacher, Batch(rows, captions, torch.tensor([0, 1, 0, 1]), Inputs(nothing, nothing, nothing))


@pytest.mark.parametrize("level", LEVELS)
def test_the_named_level_and_its_row_of_the_bridge_are_another_samples_and_nothing_else_is(taught, level):
    samples, teacher, batch = taught
    swap = Swap(samples, 1.0)
    own, found = teacher.outputs(batch, ALL), CorruptedTeacher(teacher, level, swap).outputs(batch, ALL)
    first = torch.from_numpy(samples.caption_offsets)
    partner = teacher.outputs(
        replace(batch, samples=swap.partners(batch.samples), captions=first[swap.partners(batch.samples)] + 1), ALL
    )
    for name in LEVELS:
        got, right = found.levels[name], (partner if name == level else own).levels[name]
        assert torch.equal(got.values, right.values)
        assert name == level or not torch.equal(own.levels[name].values, partner.levels[name].values)
        assert (got.mask is None) == (right.mask is None)
        assert got.mask is None or torch.equal(got.mask, right.mask)
    for got, mine, theirs, names in (
        (found.bridge.image, own.bridge.image, partner.bridge.image, LEVELS[:4]),
        (found.bridge.text, own.bridge.text, partner.bridge.text, LEVELS[4:]),
    ):
        for k, name in enumerate(names):
            assert torch.equal(got[:, k], (theirs if name == level else mine)[:, k])
    assert torch.equal(found.final.image, own.final.image) and torch.equal(found.final.text, own.final.text)


def test_samples_that_are_not_affected_keep_their_own(taught, monkeypatch):
    samples, teacher, batch = taught
    swap = Swap(samples, 0.5)
    monkeypatch.setattr(swap, "affected", lambda rows: rows == 7)
    own, found = (
        t.outputs(batch, replace(ALL, levels=("P4",))) for t in (teacher, CorruptedTeacher(teacher, "P4", swap))
    )
    same = [torch.equal(a, b) for a, b in zip(own.levels["P4"].values, found.levels["P4"].values, strict=True)]
    assert same == [True, False, True, True]


def test_a_level_that_is_not_asked_for_is_not_read_for_the_fault(taught):
    samples, teacher, batch = taught
    teacher.image.bytes_read.clear()
    CorruptedTeacher(teacher, "P4", Swap(samples, 1.0)).outputs(batch, Needs(teacher=True, levels=("P2",)))
    assert set(teacher.image.bytes_read) == {"P2", "final"}


def test_a_faulty_level_asks_for_a_cache(root, tmp_path):
    with pytest.raises(UsageError, match="set cache.path, and no cache.tokens"):
        distill(world.config(root, run=str(tmp_path / "run"), cache__path=None, corrupt={"level": "P3"}))


def test_a_run_with_a_faulty_level_learns_another_student_and_is_repeatable(root, tmp_path):
    def last(name, **over):
        folder = distill(world.config(root, run=str(tmp_path / name), eval={}, **over))
        rows = world.rows(folder)
        return next(row["loss"] for row in reversed(rows) if row["kind"] == "train")

    fault = {"corrupt": {"level": "P3"}}
    assert last("a", **fault) == last("b", **fault) != last("c")


def test_a_policy_that_learns_sees_the_faulty_level_in_every_credit_event(root, tmp_path):
    over = {"policy__name": "routing", "policy__every": 1, "policy__collect": 0.2, "data__holdout": 0.2,
            "cache__path": str(tmp_path / "cache"), "corrupt": {"level": "L2"}, "eval": {}}  # fmt: skip
    build_cache(world.config(root, **over))
    folder = distill(world.config(root, run=str(tmp_path / "run"), **over))
    rows = world.rows(folder)
    assert sum("t/L2" in row for row in rows) == 8 and rows[-1]["kind"] == "final"
