import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau

from cmapkd.losses import c2kd


def kl(teacher, student):
    return F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)


@pytest.mark.parametrize("levels", [3, 50])
def test_kendall_is_scipys_tau_b_with_ties(levels):
    generator = torch.Generator().manual_seed(levels)
    a = torch.randint(levels, (20, 11), generator=generator).float()
    b = torch.randint(levels, (20, 11), generator=generator).float()
    expected = torch.tensor([kendalltau(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)])
    torch.testing.assert_close(c2kd.kendall(a, b), expected.float())


def test_a_row_of_equal_values_has_no_order():
    assert c2kd.kendall(torch.ones(2, 5), torch.randn(2, 5)).tolist() == [0, 0]


def test_many_classes_are_judged_by_a_fixed_sample_of_pairs():
    torch.manual_seed(0)
    a = torch.randn(8, 300)
    b = a + torch.randn(8, 300)
    i, j = c2kd.class_pairs(300, 2000)
    assert len(i) == 2000 and bool((i != j).all()) and max(int(i.max()), int(j.max())) < 300
    exact, sampled = c2kd.kendall(a, b, 300 * 299), c2kd.kendall(a, b, 2000)
    assert float((exact - sampled).abs().max()) < 0.1
    assert torch.equal(sampled, c2kd.kendall(a, b, 2000))
    i, j = c2kd.class_pairs(5)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(x, y) for x in range(5) for y in range(x + 1, 5)]


def test_zero_keeps_the_true_class_at_logit_zero_and_drop_takes_it_out():
    torch.manual_seed(0)
    student, teacher, labels = 3 * torch.randn(4, 5), 3 * torch.randn(4, 5), torch.tensor([4, 0, 2, 2])
    mask = torch.tensor([True, False, True, True])
    zero, drop = 0.0, 0.0
    for k in (0, 2, 3):
        s, t = student[k].clone(), teacher[k].clone()
        s[labels[k]], t[labels[k]] = 0.0, 0.0
        zero += kl(t, s) / 4
        rest = [c for c in range(5) if c != labels[k]]
        drop += kl(teacher[k, rest], student[k, rest]) / 4
    torch.testing.assert_close(c2kd.non_target(student, teacher, labels, mask), zero)
    torch.testing.assert_close(c2kd.non_target(student, teacher, labels, mask, drop=True), drop)


@pytest.mark.parametrize("drop", [False, True])
def test_an_empty_selection_costs_nothing_and_is_finite(drop):
    student = torch.randn(4, 5, requires_grad=True)
    none, labels = torch.zeros(4, dtype=torch.bool), torch.tensor([0, 1, 2, -1])
    loss = c2kd.non_target(student, torch.randn(4, 5), labels, none, drop)
    loss.backward()
    assert float(loss.detach()) == 0 and bool(student.grad.isfinite().all())


def test_the_gate_takes_samples_whose_classes_are_ranked_alike():
    rows = torch.arange(5.0).expand(2, 5)
    assert c2kd.selected(rows, torch.stack([rows[0], -rows[1]])).tolist() == [True, False]


def test_the_whole_loss_is_the_eight_parts_with_their_targets_held_fixed():
    torch.manual_seed(1)
    t, s, tp, sp = (torch.randn(6, 4, requires_grad=True) for _ in range(4))
    labels = torch.tensor([0, 1, 2, 3, 1, 0])
    mask = torch.tensor([kendalltau(*pair).statistic > 0 for pair in zip(tp.tolist(), sp.tolist(), strict=True)])
    assert 0 < int(mask.sum()) < 6

    def without(z):
        return z * (1 - F.one_hot(labels, 4))

    parts = [
        F.cross_entropy(t, labels), kl(t.detach(), tp).mean(), kl(tp.detach(), t).mean(),
        (mask * kl(without(sp).detach(), without(tp))).mean(),
        F.cross_entropy(s, labels), kl(s.detach(), sp).mean(), kl(sp.detach(), s).mean(),
        (mask * kl(without(tp).detach(), without(sp))).mean(),
    ]  # fmt: skip
    expected, found = sum(parts), c2kd.c2kd(t, s, tp, sp, labels)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, (t, s, tp, sp)), torch.autograd.grad(expected, (t, s, tp, sp)), strict=True
    ):
        torch.testing.assert_close(a, b)
        assert float(a.abs().sum()) > 0
