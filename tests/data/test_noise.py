"""Noisy captions: a fixed share of the samples has the caption of another sample, and its own image."""

import torch

import world
from cmapkd.data.noise import affected, partners
from cmapkd.train.setup.assemble import assemble


def test_every_sample_gets_another_ones_and_always_the_same():
    for n in (2, 3, 48, 1000):
        other = partners(torch.arange(n), n)
        assert torch.equal(other.sort().values, torch.arange(n)) and not bool((other == torch.arange(n)).any())
        assert torch.equal(other[n // 2 :], partners(torch.arange(n // 2, n), n))


def test_a_share_of_the_samples_is_affected_and_a_larger_share_includes_them():
    few, many = affected(torch.arange(4000), 0.2), affected(torch.arange(4000), 0.6)
    assert abs(float(few.float().mean()) - 0.2) < 0.03 and abs(float(many.float().mean()) - 0.6) < 0.03
    assert bool((many | ~few).all()) and bool(affected(many.nonzero()[:, 0], 1.0).all())
    assert not bool(affected(torch.arange(50), 0.0).any())


def test_noisy_captions_are_of_other_samples_for_student_and_teacher_and_images_stay(root, tmp_path):
    plain = assemble(world.config(root, run=str(tmp_path / "a"), cache__path=None), tmp_path / "a").loader
    over = {"corrupt": {"captions": 0.5}, "cache__path": None}
    noisy = assemble(world.config(root, run=str(tmp_path / "b"), **over), tmp_path / "b").loader
    a, b = plain.batch(3), noisy.batch(3)
    assert torch.equal(a.samples, b.samples) and torch.equal(a.student.images, b.student.images)
    moved = a.captions != b.captions
    assert torch.equal(moved, noisy.swap.affected(b.samples)) and 0 < int(moved.sum()) < len(moved)
    owner = torch.searchsorted(torch.from_numpy(noisy.samples.caption_offsets), b.captions, right=True) - 1
    assert torch.equal(owner[moved], noisy.swap.partners(b.samples[moved]))
    assert torch.equal(b.student.ids, noisy.tokens(b.captions)[0])
    assert torch.equal(b.teacher.ids, noisy.teacher_tokens(b.captions)[0])
