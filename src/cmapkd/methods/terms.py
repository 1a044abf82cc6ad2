"""TERMS: each adapts a View to one loss. A term knows no weight, stage, optimizer, device or rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cmapkd.core.types import View
from cmapkd.losses import alignment, contrastive, feature, logits, relation, task

Term = Callable[[View], Tensor]


def align(view: View) -> Tensor:
    """L_align on the student's final embeddings."""
    return contrastive.align(view.student.final.image, view.student.final.text, view.scale, view.positives)


def icl(view: View) -> Tensor:
    """L_icl: the student against the teacher's opposite tower, at the student's own scale."""
    teacher, mine = view.teaching.final, view.student.projected  # type: ignore[union-attr]
    return contrastive.interactive(mine.image, mine.text, teacher.image, teacher.text, view.scale, view.positives)


def logit_kd(view: View) -> Tensor:
    """L_logits at T = 1, the teacher's scale on both sides."""
    teaching, mine = view.teaching, view.student.final
    scale = teaching.scale  # type: ignore[union-attr]
    return logits.logits(mine.image, mine.text, teaching.final.image, teaching.final.text, scale, scale)  # type: ignore[union-attr]


def fd(view: View) -> Tensor:
    """L_fd of both modalities, summed."""
    teacher, mine = view.teaching.final, view.student.projected  # type: ignore[union-attr]
    return logits.fd(mine.image, teacher.image) + logits.fd(mine.text, teacher.text)


def intra_v(view: View) -> Tensor:
    """L_intra_v over the active image levels."""
    return feature.intra(view.errors.image)  # type: ignore[arg-type]


def intra_l(view: View) -> Tensor:
    """L_intra_l over the active text levels."""
    return feature.intra(view.errors.text)  # type: ignore[arg-type]


def pyramid_align(view: View) -> Tensor:
    """L_pyramid_align over the level pairs that the coupling uses."""
    mine, teacher = view.student.bridge, view.teaching.bridge  # type: ignore[union-attr]
    return alignment.pyramid_align(
        mine.image, mine.text, teacher.image, teacher.text, view.temperatures, view.coupling  # type: ignore[union-attr, arg-type]
    )  # fmt: skip


def sample_relation(view: View) -> Tensor:
    """L_relation, mean over the levels P4, P5, L3, L4 that the teacher speaks of now; projector-free on purpose."""
    levels, masks = view.teaching.levels, view.teaching.masks  # type: ignore[union-attr]
    names = [name for name in ("P4", "P5", "L3", "L4") if name in levels]
    if not names:
        return relation.relation(view.student.final.image, view.teaching.final.image)  # type: ignore[union-attr]
    losses = [relation.relation(view.student.pooled[k], _pool(k, levels[k], masks.get(k))) for k in names]
    return torch.stack(losses).mean()


def layer_relation(view: View) -> Tensor:
    """L_layer_relation between the eight levels of each sample, both modalities together."""
    mine, teacher = view.student.bridge, view.teaching.bridge  # type: ignore[union-attr]
    student = torch.cat([mine.image, mine.text], 1)  # type: ignore[union-attr]
    return relation.layer_relation(student, torch.cat([teacher.image, teacher.text], 1))


def classification(view: View) -> Tensor:
    """L_task on labelled data: the class texts as classifier."""
    return task.classification(view.student.final.image, view.classes, view.scale, view.labels)  # type: ignore[arg-type]


def _pool(name: str, target: Tensor, mask: Tensor | None) -> Tensor:
    if name == "P5":
        return target[:, -2]
    return target.mean(1) if mask is None else (target * mask[..., None]).sum(1) / mask.sum(1).clamp_min(1)[:, None]


TERMS: dict[str, Term] = {
    "align": align,
    "logits": logit_kd,
    "fd": fd,
    "icl": icl,
    "intra_v": intra_v,
    "intra_l": intra_l,
    "pyramid_align": pyramid_align,
    "relation": sample_relation,
    "layer_relation": layer_relation,
    "task": classification,
}
FINAL = frozenset({"align", "logits", "fd", "icl", "task"})
READS_LEVELS = frozenset({"intra_v", "intra_l", "relation"})
READS_BRIDGE = frozenset({"pyramid_align", "layer_relation"})
NEEDS_TEACHER = frozenset(TERMS) - {"align", "task"}
