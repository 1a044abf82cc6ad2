import pytest
import torch
import torch.nn.functional as F

from cmapkd.losses import vl2lite
from cmapkd.losses.labelled import cross_entropy


def test_the_text_loss_is_half_t_squared_of_the_batch_mean_kl():
    torch.manual_seed(0)
    student, teacher, t = 5 * torch.randn(6, 9), 5 * torch.randn(6, 9), 2.0
    kl = F.kl_div((student / t).log_softmax(1), (teacher / t).softmax(1), reduction="batchmean")
    cells = F.kl_div((student / t).log_softmax(1), (teacher / t).softmax(1), reduction="none")
    released = t * t * 9 / 2 * cells.mean()
    found = vl2lite.textual(student, teacher)
    torch.testing.assert_close(found, t * t / 2 * kl)
    torch.testing.assert_close(found, released)
    assert float(vl2lite.textual(teacher, teacher)) == pytest.approx(0, abs=1e-6)


def test_the_text_loss_teaches_the_student_side_only():
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    vl2lite.textual(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


def test_the_visual_loss_is_the_mean_absolute_difference_of_unit_rows_and_moves_both():
    student, condensed = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    loss = vl2lite.visual(student, condensed)
    rows = [
        abs(a / student[k].norm() - b / condensed[k].norm())
        for k in range(4)
        for a, b in zip(student[k], condensed[k], strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    loss.backward()
    assert student.grad.abs().sum() > 0 and condensed.grad.abs().sum() > 0


def test_the_released_ramp_never_passes_an_eighth_and_the_other_reaches_one_there():
    epochs = 10
    assert vl2lite.class_share(0.0) == vl2lite.class_share(0.0, released=False) == 0
    assert vl2lite.class_share((epochs - 1) / epochs) == pytest.approx((epochs - 1) / (8 * epochs))
    assert vl2lite.class_share(0.125, released=False) == vl2lite.class_share(0.5, released=False) == 1
    assert vl2lite.class_share(0.0625, released=False) == 0.5


def test_samples_without_a_label_carry_no_cross_entropy():
    logits, labels = torch.randn(4, 3), torch.tensor([2, -1, 0, -1])
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits[[0, 2]], labels[[0, 2]]))
    assert float(cross_entropy(logits, torch.full((4,), -1))) == 0
