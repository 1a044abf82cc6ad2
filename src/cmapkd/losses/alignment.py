"""L_pyramid_align: KL divergence of the similarities of every image level with every text level, in the shared space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def pyramid_align(
    student_image: Float[Tensor, "b i e"],
    student_text: Float[Tensor, "b j e"],
    teacher_image: Float[Tensor, "b i e"],
    teacher_text: Float[Tensor, "b j e"],
    temperatures: Float[Tensor, "i j"],
    coupling: Float[Tensor, "b i j"] | Float[Tensor, "i j"],
    pairs: tuple[Int[Tensor, " p"], Int[Tensor, " p"]] | None = None,
) -> Float[Tensor, ""]:
    """mean_b Σ_ij α_ij(b) ½ [KL(sg P_ij^T ‖ P_ij^S) + the same over texts].

    P_ij = softmax_b'( cos(v_i(b), l_j(b')) / τ_ij ); the teacher's temperatures serve both sides; pairs whose coupling
    is zero for every sample are not computed. pairs: (i, j) of all others; without it the host waits to look for them.
    """
    coupling = coupling.detach().expand(len(student_image), -1, -1)
    i, j = coupling.abs().sum(0).nonzero().unbind(1) if pairs is None else pairs
    if len(i) == 0:
        return student_image.sum() * 0
    teacher = _pair_logits(teacher_image.detach(), teacher_text.detach(), i, j, temperatures)
    student = _pair_logits(student_image, student_text, i, j, temperatures)
    rows = _kl(teacher, student, 2)
    columns = _kl(teacher, student, 1)
    return (coupling[:, i, j].T * 0.5 * (rows + columns)).sum(0).mean()


def pair_divergence(
    student_image: Float[Tensor, "b i e"],
    student_text: Float[Tensor, "b j e"],
    teacher_image: Float[Tensor, "b i e"],
    teacher_text: Float[Tensor, "b j e"],
    temperatures: Float[Tensor, "i j"],
) -> Float[Tensor, "b i j"]:
    """½ [KL(P_ij^T ‖ P_ij^S) + the same over texts] of every sample and pair: what α_ij(b) weighs in L_pyramid_align."""
    i, j = (at.flatten() for at in torch.meshgrid(*map(torch.arange, temperatures.shape), indexing="ij"))
    teacher = _pair_logits(teacher_image.detach(), teacher_text.detach(), i, j, temperatures)
    student = _pair_logits(student_image, student_text, i, j, temperatures)
    both = 0.5 * (_kl(teacher, student, 2) + _kl(teacher, student, 1))
    return both.T.unflatten(1, tuple(temperatures.shape))


def _pair_logits(image: Tensor, text: Tensor, i: Tensor, j: Tensor, temperatures: Tensor) -> Float[Tensor, "p b c"]:
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    return torch.einsum("bpe,cpe->pbc", image[:, i], text[:, j]) / temperatures[i, j][:, None, None]


def _kl(teacher: Float[Tensor, "p b c"], student: Float[Tensor, "p b c"], axis: int) -> Float[Tensor, "p b"]:
    target = teacher.log_softmax(axis)
    return (target.exp() * (target - student.log_softmax(axis))).sum(axis)
