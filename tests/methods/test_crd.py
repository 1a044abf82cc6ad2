"""CRD against the loop of its equation, and what its memory does: it moves in training only, and resumes bit by bit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import toy
from cmapkd.core.types import LogitScale, Pair, StudentOutputs, TeacherOutputs
from cmapkd.losses.crd import EPSILON, draw_negatives, nce, remember
from cmapkd.methods.crd import MOMENTUM, TEMPERATURE, Banks, Heads

N = 12


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def banks(seed: int = 0) -> Banks:
    torch.manual_seed(seed)
    return Banks(6, 8, N)


def test_nce_is_the_loop_of_the_equation() -> None:
    ratios, n = draw(0, 3, 6).exp(), 11
    slow = 0.0
    for row in ratios.tolist():
        noise = 5 / n
        slow -= math.log(row[0] / (row[0] + noise + EPSILON))
        slow -= sum(math.log(noise / (p + noise + EPSILON)) for p in row[1:])
    assert float(nce(ratios, n)) == pytest.approx(slow / 3, rel=1e-5)


def test_no_negative_is_the_sample_itself_and_every_other_sample_is_drawn_evenly() -> None:
    torch.manual_seed(0)
    own = torch.tensor([0, 4, 9])
    drawn = draw_negatives(own, 9000, 10)
    for row, mine in zip(drawn, own.tolist(), strict=True):
        counts = row.bincount(minlength=10)
        assert counts[mine] == 0 and int(counts.sum()) == 9000
        others = torch.cat([counts[:mine], counts[mine + 1 :]]).float()
        assert float((others - 1000).abs().max()) < 150


def test_the_loss_of_both_directions_is_the_loop_over_the_banks_as_they_were() -> None:
    part, student, teacher, own = banks(), draw(1, 3, 6), draw(2, 3, 8), torch.tensor([5, 0, 11])
    memory = {side: getattr(part, f"memory_{side}").clone() for side in ("student", "teacher")}
    state = torch.get_rng_state()
    loss = part(student, teacher, own)
    torch.set_rng_state(state)
    picked = torch.cat([own[:, None], draw_negatives(own, N - 1, N)], 1)
    rows = {side: x.detach() for side, x in part.unit(student, teacher).items()}
    slow = 0.0
    for side, other in (("student", "teacher"), ("teacher", "student")):
        raw = torch.tensor([[math.exp(float(rows[side][b] @ memory[other][i]) / TEMPERATURE) for i in picked[b]]
                            for b in range(3)])  # fmt: skip
        slow += float(nce(raw / (raw.mean() * N), N))
    assert float(loss.detach()) == pytest.approx(slow, rel=1e-4)


def test_the_constants_are_those_of_the_first_batch_and_stay() -> None:
    part, own = banks(), torch.arange(3)
    assert (part.constants < 0).all()
    part(draw(1, 3, 6), draw(2, 3, 8), own)
    first = part.constants.clone()
    assert (first > 0).all()
    part(draw(3, 3, 6), draw(4, 3, 8), own)
    assert torch.equal(part.constants, first)


def test_the_memory_moves_half_way_and_is_unit_and_only_where_the_batch_was() -> None:
    part, own = banks(), torch.tensor([2, 7])
    before = part.memory_student.clone()
    student, teacher = draw(1, 2, 6), draw(2, 2, 8)
    part(student, teacher, own)
    new = part.unit(student, teacher)["student"].detach()
    moved = F.normalize(MOMENTUM * before[own] + (1 - MOMENTUM) * new, dim=-1)
    torch.testing.assert_close(part.memory_student[own], moved)
    rest = [i for i in range(N) if i not in own.tolist()]
    assert torch.equal(part.memory_student[rest], before[rest])


@pytest.mark.parametrize("quiet", ["eval", "no_grad"])
def test_looking_changes_nothing(quiet: str) -> None:
    part = banks().train(quiet != "eval")
    before = {k: v.clone() for k, v in part.state_dict().items()}
    with torch.set_grad_enabled(quiet != "no_grad"):
        assert part(draw(1, 3, 6), draw(2, 3, 8), torch.arange(3)).isfinite()
    assert all(torch.equal(v, before[k]) for k, v in part.state_dict().items())


def test_a_sample_that_stands_twice_in_a_batch_takes_the_mean_of_both() -> None:
    memory, new = F.normalize(draw(0, 4, 5), dim=-1), F.normalize(draw(1, 3, 5), dim=-1)
    moved = remember(memory, torch.tensor([2, 0, 2]), new, 0.5)
    torch.testing.assert_close(moved[2], F.normalize(0.5 * memory[2] + 0.25 * (new[0] + new[2]), dim=0))
    torch.testing.assert_close(moved[0], F.normalize(0.5 * memory[0] + 0.5 * new[1], dim=0))
    assert torch.equal(moved[[1, 3]], memory[[1, 3]])


def test_a_resumed_part_goes_on_bit_by_bit() -> None:
    part = banks()
    part(draw(1, 3, 6), draw(2, 3, 8), torch.arange(3))
    state, generator = {k: v.clone() for k, v in part.state_dict().items()}, torch.get_rng_state()
    expected = part(draw(3, 3, 6), draw(4, 3, 8), torch.arange(3, 6))
    other = banks(seed=9)
    other.load_state_dict(state)
    torch.set_rng_state(generator)
    assert torch.equal(other(draw(3, 3, 6), draw(4, 3, 8), torch.arange(3, 6)), expected)
    assert all(torch.equal(v, part.state_dict()[k]) for k, v in other.state_dict().items())


def test_both_heads_learn_and_the_teachers_embedding_does_not() -> None:
    part, student, teacher = banks(), draw(1, 3, 6).requires_grad_(), draw(2, 3, 8).requires_grad_()
    part(student, teacher, torch.arange(3)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    assert student.grad is not None and teacher.grad is None


def test_the_form_within_the_batch_is_info_nce_and_spares_the_captions_of_one_image() -> None:
    torch.manual_seed(0)
    part, student, teacher = Heads(6, 8), draw(1, 3, 6), draw(2, 3, 8)
    rows = part.unit(student, teacher)
    z = rows["student"] @ rows["teacher"].T / TEMPERATURE
    same = torch.arange(3)
    slow = 0.5 * (F.cross_entropy(z, same) + F.cross_entropy(z.T, same))
    torch.testing.assert_close(part(student, teacher, torch.eye(3, dtype=torch.bool)), slow)
    assert float(part(student, teacher, torch.ones(3, 3, dtype=torch.bool)).detach()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("term", ["crd", "crd_inbatch"])
def test_the_term_sums_images_with_images_and_texts_with_texts(term: str) -> None:
    torch.manual_seed(0)
    part = toy.term(term, 6, 8, N).eval()
    mine, theirs = Pair(draw(1, 3, 6), draw(2, 3, 6)), Pair(draw(3, 3, 8), draw(4, 3, 8))
    view = toy.view(
        StudentOutputs(mine, mine), torch.tensor(10.0), torch.eye(3, dtype=torch.bool),
        TeacherOutputs(theirs, LogitScale(10.0)), samples=torch.arange(3),
    )  # fmt: skip
    last = view.samples if term == "crd" else view.positives
    torch.manual_seed(1)
    found = part(view)
    torch.manual_seed(1)
    parts = part.image(mine.image, theirs.image, last) + part.text(mine.text, theirs.text, last)
    torch.testing.assert_close(found, parts)
