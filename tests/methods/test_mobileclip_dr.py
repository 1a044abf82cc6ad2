"""The loss of several teachers: the mean of their own divergences, and the gradient of the mean of their softmaxes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import toy
import world
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.core.tree import rows
from cmapkd.core.types import LogitScale, Pair, StudentOutputs, TeacherOutputs
from cmapkd.losses.affinity import soft_cross_entropy
from cmapkd.losses.contrastive import similarity
from cmapkd.losses.ensemble import ensemble
from cmapkd.losses.logits import kl_rows
from cmapkd.methods import METHODS, TERMS
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.prepare import build_cache


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT = Pair(draw(0, 4, 5), draw(1, 4, 5))
TEACHERS = [Pair(draw(2, 4, 6), draw(3, 4, 6)), Pair(draw(4, 4, 3), draw(5, 4, 3))]
SCALES = [9.0, 30.0]
SIX, FULL = LogitScale(6.0), [(rows, LogitScale(s)) for rows, s in zip(TEACHERS, SCALES, strict=True)]


def test_two_teachers_of_different_widths_and_temperatures_are_averaged() -> None:
    student = 6.0 * similarity(STUDENT.image, STUDENT.text)
    slow = 0.0
    for teacher, scale in zip(TEACHERS, SCALES, strict=True):
        theirs = scale * similarity(teacher.image, teacher.text)
        slow += 0.25 * float(kl_rows(theirs, student).mean() + kl_rows(theirs.T, student.T).mean())
    torch.testing.assert_close(ensemble(STUDENT, SIX, FULL), torch.tensor(slow, dtype=torch.float64))


def test_averaging_the_teachers_after_the_softmax_has_the_same_gradient() -> None:
    image = STUDENT.image.clone().requires_grad_()
    found = torch.autograd.grad(ensemble(Pair(image, STUDENT.text), SIX, FULL), image)[0]
    student = 6.0 * similarity(image, STUDENT.text)
    theirs = [s * similarity(t.image, t.text) for t, s in zip(TEACHERS, SCALES, strict=True)]
    rows = torch.stack([z.softmax(1) for z in theirs]).mean(0).log()
    columns = torch.stack([z.T.softmax(1) for z in theirs]).mean(0).log()
    released = 0.5 * (soft_cross_entropy(rows, student) + soft_cross_entropy(columns, student.T)).mean()
    torch.testing.assert_close(found, torch.autograd.grad(released, image)[0])


def test_the_order_of_the_teachers_and_their_rotations_do_not_matter() -> None:
    plain = ensemble(STUDENT, SIX, FULL)
    torch.testing.assert_close(ensemble(STUDENT, SIX, FULL[::-1]), plain)
    turn = torch.linalg.qr(draw(9, 6, 6))[0]
    turned = [TEACHERS[0].map(lambda x: 3 * F.normalize(x, dim=-1) @ turn), TEACHERS[1]]
    torch.testing.assert_close(
        ensemble(STUDENT, SIX, [(rows, theirs) for rows, (_, theirs) in zip(turned, FULL, strict=True)]), plain
    )


def test_the_term_reads_every_stored_teacher_and_slices_them_all() -> None:
    first, second = (teacher.map(lambda x: F.normalize(x, dim=-1)) for teacher in TEACHERS)
    teaching = TeacherOutputs(first, LogitScale(SCALES[0]), others=((second, LogitScale(SCALES[1])),))
    of = toy.view(StudentOutputs(STUDENT, STUDENT), torch.tensor(6.0), torch.eye(4) > 0, teaching)
    torch.testing.assert_close(toy.term("reinforced")(of), ensemble(STUDENT, SIX, FULL))
    part = rows(teaching, torch.tensor([2, 0]))
    assert part is not None and torch.equal(part.others[0][0].text, second.text[[2, 0]])
    assert [part.similarity.scale, part.others[0][1].scale] == SCALES


def test_a_run_learns_from_two_stored_teachers_and_refuses_one_of_other_data(root, tmp_path) -> None:
    world.teacher_folder(root / "second", seed=5, width=32)
    other = {"teacher__model": f"local-dir:{root / 'second'}", "cache__path": str(tmp_path / "cache-2")}
    build_cache(world.config(root, **other))

    def first_loss(name: str, **over) -> float:
        folder = distill(
            world.config(root, run=str(tmp_path / name), method="mobileclip_dr", train__steps=1, eval={}, **over)
        )
        rows = world.rows(folder)
        return next(row["loss/reinforced"] for row in rows if row["kind"] == "train")

    both = first_loss("both", cache__ensemble=[str(tmp_path / "cache-2")])
    alone = [first_loss("first"), first_loss("second", **other)]
    assert both == pytest.approx(sum(alone) / 2, rel=1e-5) and alone[0] != pytest.approx(alone[1], rel=1e-3)
    build_cache(
        world.config(root, **{**other, "data__train": "scenes:40:train", "cache__path": str(tmp_path / "cache-3")})
    )
    with pytest.raises(IntegrityError, match="'data' are others than this run's"):
        first_loss("no", cache__ensemble=[str(tmp_path / "cache-3")])
    with pytest.raises(UsageError, match="no finished cache here; run `cmapkd cache` with another teacher.model"):
        first_loss("none", cache__ensemble=[str(tmp_path / "nothing")])


def test_the_method_is_distillation_alone() -> None:
    assert METHODS["mobileclip_dr"].weights == {"reinforced": 1.0} and TERMS["reinforced"].final
