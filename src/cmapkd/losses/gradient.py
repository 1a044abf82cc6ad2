"""GD of CLIP-KD: distance of the student's and the teacher's gradients of the contrastive loss, in closed form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from cmapkd.core.types import LogitScale


def contrastive_gradients(
    a: Float[Tensor, "b e"],
    b: Float[Tensor, "c e"],
    scale: Float[Tensor, ""] | float,
    positives: Bool[Tensor, "b c"] | None = None,
    bias: Float[Tensor, ""] | float | None = None,
) -> tuple[Float[Tensor, "b e"], Float[Tensor, "c e"]]:
    """(∂L/∂a, ∂L/∂b) of the one-way contrastive loss L of unit rows a against b, logits z = scale · a bᵀ.

    ∂L/∂z = (P − Q)/B with P = softmax(z) and Q the same over the positives alone, so ∂L/∂a = scale (P − Q) b / B and
    ∂L/∂b = scale (P − Q)ᵀ a / B. They are functions of a and b that can be differentiated again. With a bias L is SigLIP's
    pair loss, z = scale · a bᵀ + bias, P = σ(z) and Q 1 for the positives.
    """
    z = scale * a @ b.T
    if positives is None:
        positives = torch.eye(len(z), dtype=torch.bool, device=z.device)
    if bias is not None:
        push = ((z + bias).sigmoid() - positives.to(z.dtype)) / len(z)
        return scale * push @ b, scale * push.T @ a
    push = (z.softmax(1) - z.masked_fill(~positives, float("-inf")).softmax(1)) / len(z)
    return scale * push @ b, scale * push.T @ a


def gradient_distance(
    student_image: Float[Tensor, "b e"],
    student_text: Float[Tensor, "b e"],
    teacher_image: Float[Tensor, "b e"],
    teacher_text: Float[Tensor, "b e"],
    mine: LogitScale,
    theirs: LogitScale,
    positives: Bool[Tensor, "b b"] | None = None,
) -> Float[Tensor, ""]:
    """L_GD = Σ of four MSE: image → text and text → image, each with respect to the images and to the texts.
    Each side's gradients are those of the contrastive loss of its own kind.

    Yang et al. 2024 (CLIP-KD, arXiv 2307.12732). An element is of the order scale² / (B² E), see `gradient_unit`.
    """
    image, text = F.normalize(student_image, dim=-1), F.normalize(student_text, dim=-1)
    other_image, other_text = (F.normalize(x, dim=-1).detach() for x in (teacher_image, teacher_text))
    turned = None if positives is None else positives.T
    ours = contrastive_gradients(image, text, mine.scale, positives, mine.bias)
    ours += contrastive_gradients(text, image, mine.scale, turned, mine.bias)
    goal = contrastive_gradients(other_image, other_text, theirs.scale, positives, theirs.bias)
    goal += contrastive_gradients(other_text, other_image, theirs.scale, turned, theirs.bias)
    return torch.stack([F.mse_loss(g, h) for g, h in zip(ours, goal, strict=True)]).sum()


def gradient_unit(batch: int, width: int, scale: float) -> float:
    """scale² / (B² E): the mean squared element of the gradient of a row whose prediction is wholly wrong."""
    return scale**2 / (batch**2 * width)
