"""CLIP-KD's parts: GD against autograd, MFD really masks, AFD's own scale, and whose scale each term takes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import toy
from cmapkd.core.types import LogitScale, Needs, Pair, StudentOutputs, TeacherOutputs
from cmapkd.losses.contrastive import align
from cmapkd.losses.gradient import contrastive_gradients, gradient_distance, gradient_unit
from cmapkd.losses.logits import fd, kl_both_ways
from cmapkd.methods import METHODS
from cmapkd.methods.view import View
from cmapkd.towers.dual import evaluating
from cmapkd.towers.named import architecture_config


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(seed: int, *shape: int) -> Tensor:
    return F.normalize(draw(seed, *shape), dim=-1)


def view(scale: float = 5.0, teacher_scale: float = 9.0, batch: int = 4, **over) -> View:
    mine, projected = Pair(draw(0, batch, 5), draw(1, batch, 5)), Pair(draw(2, batch, 6), draw(3, batch, 6))
    theirs = Pair(unit(4, batch, 6), unit(5, batch, 6))
    outputs = StudentOutputs(mine, over.pop("projected", projected), {}, {}, {}, None, over.pop("masked", None))
    positives = torch.eye(batch, dtype=torch.bool)
    teaching = TeacherOutputs(theirs, LogitScale(teacher_scale))
    return toy.view(outputs, torch.tensor(scale, dtype=torch.float64), positives, teaching, **over)


def one_way(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return F.cross_entropy(scale * a @ b.T, torch.arange(len(a)))


def test_the_closed_form_is_autograds_gradient_with_the_scale_multiplied() -> None:
    a, b = unit(0, 4, 5).requires_grad_(), unit(1, 4, 5).requires_grad_()
    expected = torch.autograd.grad(one_way(a, b, 30.0), [a, b])
    for mine, theirs in zip(contrastive_gradients(a, b, 30.0), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_with_two_captions_of_one_image_it_is_the_gradient_of_our_contrastive_loss() -> None:
    same = torch.tensor([0, 0, 1, 2])
    positives = same[:, None] == same[None]
    a, b = unit(0, 4, 5).requires_grad_(), unit(1, 4, 5).requires_grad_()
    z = 7.0 * a @ b.T
    loss = 0.5 * ((z.logsumexp(1) - z.masked_fill(~positives, -math.inf).logsumexp(1)).mean()
                  + (z.logsumexp(0) - z.masked_fill(~positives, -math.inf).logsumexp(0)).mean())  # fmt: skip
    torch.testing.assert_close(align(a, b, 7.0, positives), loss)
    wanted = torch.autograd.grad(loss, [a, b])
    rows, columns = contrastive_gradients(a, b, 7.0, positives), contrastive_gradients(b, a, 7.0, positives.T)
    torch.testing.assert_close(0.5 * (rows[0] + columns[1]), wanted[0])
    torch.testing.assert_close(0.5 * (rows[1] + columns[0]), wanted[1])


def test_gd_is_the_sum_of_four_mean_squared_errors() -> None:
    image, text, other_image, other_text = (draw(k, 4, 5) for k in range(4))
    slow = 0.0
    for first, second in (((image, text), (other_image, other_text)), ((text, image), (other_text, other_image))):
        grads = []
        for (a, b), scale in ((first, 6.0), (second, 11.0)):
            a, b = (F.normalize(x, dim=-1).requires_grad_() for x in (a, b))
            grads.append(torch.autograd.grad(one_way(a, b, scale), [a, b]))
        slow += sum(float((g - h).square().mean()) for g, h in zip(*grads, strict=True))
    assert float(
        gradient_distance(image, text, other_image, other_text, LogitScale(6.0), LogitScale(11.0))
    ) == pytest.approx(slow, rel=1e-9)


def test_gd_is_zero_for_a_copy_of_the_teacher_and_has_a_gradient_of_its_own() -> None:
    image, text = draw(0, 4, 5), draw(1, 4, 5)
    assert float(
        gradient_distance(image, text, 3 * image, 2 * text, LogitScale(6.0), LogitScale(6.0))
    ) == pytest.approx(0, abs=1e-15)
    mine = image.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: gradient_distance(x, text, draw(2, 4, 5), draw(3, 4, 5), LogitScale(4.0), LogitScale(9.0)), mine
    )


@pytest.mark.parametrize(("batch", "width", "scale"), [(4, 8, 10.0), (32, 8, 10.0), (8, 64, 10.0), (8, 8, 100.0)])
def test_in_units_of_the_teacher_gd_is_of_order_one_for_any_batch_width_and_scale(batch, width, scale) -> None:
    rows = [unit(k, batch, width) for k in range(4)]
    loss = float(gradient_distance(*rows, LogitScale(scale), LogitScale(scale)) / gradient_unit(batch, width, scale))
    assert 0.5 < loss < 16


def test_gd_reads_the_students_embeddings_in_the_teachers_width() -> None:
    of = view()
    mine, theirs = of.student.projected, of.teacher.final
    loss = gradient_distance(mine.image, mine.text, theirs.image, theirs.text, LogitScale(5.0), LogitScale(9.0))
    torch.testing.assert_close(toy.term("gd")(of), loss / gradient_unit(4, 6, 9.0))


def test_icl_of_a_student_that_is_its_teacher_is_the_task_loss() -> None:
    theirs = Pair(unit(4, 4, 6), unit(5, 4, 6))
    of = view(projected=theirs)
    torch.testing.assert_close(toy.term("icl")(of), align(theirs.image, theirs.text, 5.0))


def test_icl_starts_at_a_scale_of_14_and_not_at_the_logarithm_of_it(tmp_path) -> None:
    teacher, student = toy.tower(tmp_path, seed=1, width=48), toy.tower(tmp_path, seed=2)
    learner, batch = toy.learner(["align", "icl"], student, teacher), toy.batch(student, teacher, 4)
    theirs = Pair(unit(0, 4, 24).float(), unit(1, 4, 24).float())
    outputs = learner(batch.student, Needs())
    of = toy.view(outputs, student.similarity.scale, torch.eye(4) > 0, TeacherOutputs(theirs, LogitScale(1.0)))
    mine = outputs.projected.map(lambda x: F.normalize(x, dim=-1))
    logits = (mine.image @ theirs.text.T / 0.07, mine.text @ theirs.image.T / 0.07)
    slow = 0.5 * sum(F.cross_entropy(z, torch.arange(4)) for z in logits)
    torch.testing.assert_close(toy.term("icl")(of), slow)


def test_the_students_sizes_of_the_paper_are_one_word() -> None:
    sizes = architecture_config("ViT-T-16")
    vision, text = sizes["vision_cfg"], sizes["text_cfg"]
    assert (vision["width"], vision["layers"], vision["head_width"], vision["patch_size"]) == (192, 12, 64, 16)
    assert (text["width"], text["layers"], text["heads"], sizes["embed_dim"]) == (384, 12, 6, 512)


def test_crd_relational_takes_each_sides_own_scale_and_kd_the_teachers_for_both() -> None:
    of = view()
    mine, theirs = of.student.final.map(lambda x: F.normalize(x, dim=-1)), of.teacher.final
    teacher, student = 9.0 * theirs.image @ theirs.text.T, mine.image @ mine.text.T
    torch.testing.assert_close(toy.term("crd_relational")(of), kl_both_ways(teacher, 5.0 * student).mean())
    torch.testing.assert_close(toy.term("logits")(of), kl_both_ways(teacher, 9.0 * student).mean())


def test_mfd_is_fd_of_the_masked_images_and_of_whole_texts() -> None:
    of = view(masked=draw(8, 4, 6))
    theirs = of.teacher.final
    expected = fd(of.student.masked, theirs.image) + fd(of.student.projected.text, theirs.text)
    torch.testing.assert_close(toy.term("mfd")(of), expected)
    assert float(toy.term("mfd")(of)) != pytest.approx(float(toy.term("fd")(of)))


def test_mfd_changes_with_the_mask_and_fd_does_not(tmp_path) -> None:
    teacher = toy.tower(tmp_path, seed=1, width=48)
    student = toy.tower(tmp_path, seed=2)
    learner = toy.learner(["align", "mfd"], student, teacher)
    inputs = toy.inputs(student, 4)
    theirs = Pair(F.normalize(torch.randn(4, 24), dim=-1), F.normalize(torch.randn(4, 24), dim=-1))
    found = []
    with torch.no_grad(), evaluating(learner):
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            of = toy.view(
                learner(inputs, Needs(masked=True)),
                torch.tensor(1.0),
                torch.eye(4) > 0,
                TeacherOutputs(theirs, LogitScale(1.0)),
            )
            found.append([float(toy.term(name)(of)) for name in ("mfd", "fd")])
    assert found[0] == found[1] and found[0][0] != found[2][0] and found[0][1] == found[2][1]
    assert found[0][0] != found[0][1]


def test_afd_is_the_contrastive_loss_of_fused_embeddings_at_a_scale_that_starts_at_14() -> None:
    torch.manual_seed(0)
    part = toy.term("afd", 5, 6).double()
    assert float(part.log_scale.detach().exp()) == pytest.approx(1 / 0.07, rel=1e-6)
    of = view()
    mine, theirs = of.student.final, of.teacher.final
    image = torch.cat([F.normalize(mine.image, dim=-1), theirs.image], 1) @ part.image.weight.T + part.image.bias
    text = torch.cat([F.normalize(mine.text, dim=-1), theirs.text], 1) @ part.text.weight.T + part.text.bias
    loss = part(of)
    torch.testing.assert_close(loss, align(image, text, 1 / 0.07), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert all(p.grad is not None for p in part.parameters())


@pytest.mark.parametrize("name", ["fd", "mfd", "icl", "crd_relational", "gd", "afd"])
def test_each_part_alone_is_the_task_and_that_term(name: str) -> None:
    assert set(METHODS[name].weights) == {"align", name}
