"""A planted fault: the same in every run, in the named level alone, and what learns of it turns away."""

from dataclasses import replace

import pytest
import torch

import world
from cmapkd.core.errors import UsageError
from cmapkd.core.types import LEVELS, Batch, Inputs, Needs
from cmapkd.data.readers import open_samples
from cmapkd.teacher.faults import CorruptedTeacher, Swap, strangers, struck
from cmapkd.teacher.reopen import open_cached_teacher
from cmapkd.train.assemble import assemble
from cmapkd.train.prepare import build_cache
from cmapkd.train.run import distill

ALL = Needs(teacher=True, levels=LEVELS, bridge=True)


def test_every_sample_gets_another_ones_and_always_the_same():
    for n in (2, 3, 48, 1000):
        other = strangers(n)
        assert torch.equal(other.sort().values, torch.arange(n)) and not bool((other == torch.arange(n)).any())
        assert torch.equal(other, strangers(n))


def test_a_share_of_the_samples_is_struck_and_a_larger_share_strikes_them_too():
    few, many = struck(4000, 0.2), struck(4000, 0.6)
    assert abs(float(few.float().mean()) - 0.2) < 0.03 and abs(float(many.float().mean()) - 0.6) < 0.03
    assert bool((many | ~few).all()) and bool(struck(50, 1.0).all()) and not bool(struck(50, 0.0).any())


@pytest.fixture
def taught(root):
    config = world.config(root)
    samples = open_samples(config.data.train, config.data, None)
    teacher = open_cached_teacher(config, samples)[0]
    rows, nothing = torch.tensor([3, 7, 11, 40]), torch.empty(0)
    captions = torch.from_numpy(samples.caption_offsets)[rows] + 1
    return samples, teacher, Batch(rows, captions, torch.tensor([0, 1, 0, 1]), Inputs(nothing, nothing, nothing))


@pytest.mark.parametrize("level", LEVELS)
def test_the_named_level_and_its_row_of_the_bridge_are_a_strangers_and_nothing_else_is(taught, level):
    samples, teacher, batch = taught
    swap = Swap(samples, 1.0)
    own, found = teacher.outputs(batch, ALL), CorruptedTeacher(teacher, level, swap).outputs(batch, ALL)
    first = torch.from_numpy(samples.caption_offsets)
    strange = teacher.outputs(
        replace(batch, samples=swap.other[batch.samples], captions=first[swap.other[batch.samples]] + 1), ALL
    )
    for name in LEVELS:
        got, right = found.levels[name], (strange if name == level else own).levels[name]
        assert torch.equal(got.values, right.values)
        assert name == level or not torch.equal(own.levels[name].values, strange.levels[name].values)
        assert (got.mask is None) == (right.mask is None)
        assert got.mask is None or torch.equal(got.mask, right.mask)
    for got, mine, theirs, names in (
        (found.bridge.image, own.bridge.image, strange.bridge.image, LEVELS[:4]),
        (found.bridge.text, own.bridge.text, strange.bridge.text, LEVELS[4:]),
    ):
        for k, name in enumerate(names):
            assert torch.equal(got[:, k], (theirs if name == level else mine)[:, k])
    assert torch.equal(found.final.image, own.final.image) and torch.equal(found.final.text, own.final.text)


def test_samples_that_are_not_struck_keep_their_own(taught):
    samples, teacher, batch = taught
    swap = Swap(samples, 0.5)
    swap.hit[:] = False
    swap.hit[7] = True
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


def test_noisy_captions_are_other_samples_for_student_and_teacher_and_images_stay(root, tmp_path):
    plain = assemble(world.config(root, run=str(tmp_path / "a"), cache__path=None), tmp_path / "a").loader
    over = {"corrupt": {"captions": 0.5}, "cache__path": None}
    noisy = assemble(world.config(root, run=str(tmp_path / "b"), **over), tmp_path / "b").loader
    a, b = plain.batch(3), noisy.batch(3)
    assert torch.equal(a.samples, b.samples) and torch.equal(a.student.images, b.student.images)
    moved = a.captions != b.captions
    assert torch.equal(moved, noisy.swap.hit[b.samples]) and 0 < int(moved.sum()) < len(moved)
    owner = torch.searchsorted(noisy.swap.first, b.captions, right=True) - 1
    assert torch.equal(owner[moved], noisy.swap.other[b.samples[moved]])
    assert torch.equal(b.student.ids, noisy.tokens[0][b.captions])
    assert torch.equal(b.teacher.ids, noisy.teacher_tokens[0][b.captions])


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
