"""A term's switches: what each one does to its loss, and that a wrong one is refused by name."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import toy
from cmapkd.core.errors import UsageError
from cmapkd.core.types import Inputs, LogitScale, Pair, StudentOutputs, TeacherOutputs
from cmapkd.losses.c2kd import c2kd
from cmapkd.losses.logits import kl_both_ways
from cmapkd.methods import METHODS, TERMS, check_options
from cmapkd.methods.c2kd import C2KD
from cmapkd.methods.promptkd import DEPTH, TOKENS
from cmapkd.methods.view import View
from cmapkd.towers.prompts import Prompts

B, K, STUDENT, TEACHER = 6, 5, 7, 9


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def view(**over) -> View:
    mine, projected = Pair(draw(0, B, STUDENT), draw(1, B, STUDENT)), Pair(draw(2, B, TEACHER), draw(3, B, TEACHER))
    theirs = Pair(F.normalize(draw(4, B, TEACHER), dim=-1), F.normalize(draw(5, B, TEACHER), dim=-1))
    return toy.view(
        StudentOutputs(mine, projected), torch.tensor(5.0), torch.eye(B) > 0,
        TeacherOutputs(theirs, LogitScale(9.0)), labels=torch.arange(B) % K, class_texts=F.normalize(draw(6, K, TEACHER), dim=-1), **over,
    )  # fmt: skip


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


@pytest.mark.parametrize(
    ("options", "scales", "temperature"),
    [
        ({}, (9.0, 9.0), 1.0),
        ({"temperature": 3.0}, (9.0, 9.0), 3.0),
        ({"scale": "own"}, (5.0, 9.0), 1.0),
        ({"scale": "constant", "constant": 20.0, "temperature": 2.0}, (20.0, 20.0), 2.0),
    ],
)
def test_kd_takes_its_temperature_and_whose_scale_it_reads_from_the_config(options, scales, temperature) -> None:
    of = view()
    mine, theirs = of.student.final, of.teacher.final
    student, teacher = (
        scale * cosine(side.image, side.text) / temperature for side, scale in zip((mine, theirs), scales, strict=True)
    )
    torch.testing.assert_close(
        toy.term("logits", **options)(of), temperature**2 * kl_both_ways(teacher, student).mean()
    )


@pytest.mark.parametrize(("ramp", "share"), [("released", 0.05 / 8), ("to_one", 0.4)])
def test_vl2lite_is_its_equation_in_both_readings_of_the_ramp(ramp, share) -> None:
    torch.manual_seed(0)
    part = toy.term("vl2lite", STUDENT, TEACHER, classes=K, ramp=ramp)
    of = view(progress=0.05)
    h, teacher, bank = of.student.final.image, of.teacher.final.image, of.class_texts
    visual = (F.normalize(h, dim=-1) - F.normalize(part.image(teacher), dim=-1)).abs().mean()
    theirs, mine = teacher @ bank.T / 0.07 / 2, cosine(h, part.text(bank)) / 0.07 / 2
    textual = 2.0 * F.kl_div(mine.log_softmax(1), theirs.softmax(1), reduction="batchmean")
    wanted = share * F.cross_entropy(part.head(h), of.labels) + (1 - share) * (visual + textual) / 2
    torch.testing.assert_close(part(of), wanted)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_promptkd_is_w_over_k_of_the_kl_with_each_models_own_scale_and_no_labels(temperature) -> None:
    torch.manual_seed(0)
    part = toy.term("promptkd_fullft", STUDENT, TEACHER, temperature=temperature)
    of = view()
    weight = METHODS["promptkd_fullft"].weights["promptkd_fullft"]
    mine = 5.0 * cosine(part.project(of.student.final.image), of.class_texts) / temperature
    theirs = 9.0 * of.teacher.final.image @ of.class_texts.T / temperature
    kl = F.kl_div(mine.log_softmax(1), theirs.softmax(1), reduction="batchmean")
    torch.testing.assert_close(weight * part(of), 1000 / K * temperature**2 * kl)
    assert torch.equal(part(of), part(replace(of, labels_or_none=None)))


def test_promptkd_learns_as_many_numbers_as_the_papers_at_its_sizes() -> None:
    prompts = sum(p.numel() for p in Prompts(TOKENS, DEPTH, 768).parameters())
    assert prompts == 27_648
    assert prompts + sum(p.numel() for p in toy.term("promptkd_fullft", 512, 768).parameters()) == 1_013_760


class TrainedCopy(torch.nn.Module):
    """Stands for the trained copy: two learnt tables of embeddings and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = (torch.nn.Parameter(draw(k, B, TEACHER)) for k in (7, 8))
        self.similarity = SimpleNamespace(scale=4.0)

    def final(self, inputs: object) -> Pair[Tensor]:
        return Pair(self.image, self.text)


@pytest.mark.parametrize("non_target", ["zero", "drop"])
def test_c2kd_crosses_the_modalities_both_ways_and_trains_its_copy_of_the_teacher(non_target) -> None:
    torch.manual_seed(0)
    part = C2KD.__new__(C2KD)
    torch.nn.Module.__init__(part)
    part.chosen = {"non_target": non_target}
    part.tower = TrainedCopy()
    sizes = {"student": STUDENT, "teacher": TEACHER}
    part.proxies = torch.nn.ModuleDict(
        {f"{who}_{what}": torch.nn.Linear(sizes[who], K) for who in sizes for what in ("image", "text")}
    )
    of = view(inputs=Inputs(*(torch.zeros(B),) * 3))
    proxies, mine, projected, tower = part.proxies, of.student.final, of.student.projected, part.tower
    wanted = c2kd(
        4 * cosine(tower.text, of.class_texts), 5 * cosine(projected.image, of.class_texts),
        proxies["teacher_text"](tower.text), proxies["student_image"](mine.image), of.labels, non_target == "drop",
    ) + c2kd(
        4 * cosine(tower.image, of.class_texts), 5 * cosine(projected.text, of.class_texts),
        proxies["teacher_image"](tower.image), proxies["student_text"](mine.text), of.labels, non_target == "drop",
    )  # fmt: skip
    found = part(of)
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fd": {"temperature": 2.0}}, "options.fd: the method has no such term; its terms: align, logits"),
        ({"logits": {"temprature": 2.0}}, "known: temperature, scale, constant .did you mean 'temperature'"),
        ({"logits": {"scale": "mine"}}, "'mine' is none of teacher, own, constant"),
        ({"logits": {"temperature": 0.0}}, "must be a number above 0"),
        ({"logits": {"temperature": "hot"}}, "must be a number above 0"),
        ({"align": {"temperature": 2.0}}, "no such switch; known: none"),
    ],
)
def test_a_switch_that_does_not_exist_or_a_value_that_it_cannot_take_is_refused(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        check_options(options, METHODS["kd"].weights)


def test_every_default_passes_its_own_check() -> None:
    for name, method in METHODS.items():
        options = {
            term: {k: v[0] if isinstance(v, tuple) else v for k, v in TERMS[term].options.items()}
            for term in method.weights
        }
        check_options(options, METHODS[name].weights)
