"""CLIPScore and RefCLIPScore: captions judged by a CLIP-like model instead of by their words (Hessel et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cmapkd.tasks.encoder import Encoder, embed_images, embed_texts

WEIGHT = 2.5
PROMPT = "A photo depicts "


def clip_score(image: Float[Tensor, "n e"], caption: Float[Tensor, "n e"]) -> Float[Tensor, " n"]:
    """w · max(cos(v, c), 0) of unit rows, w = 2.5 (arXiv:2104.08718, eq. 1)."""
    return WEIGHT * torch.einsum("ne,ne->n", image, caption).clamp_min(0)


def ref_clip_score(
    image: Float[Tensor, "n e"], caption: Float[Tensor, "n e"], nearest: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Harmonic mean of CLIPScore and max(max_r cos(c, r), 0), 0 where either is; `nearest` is the inner maximum."""
    ours, theirs = clip_score(image, caption), nearest.clamp_min(0)
    total = ours + theirs
    return torch.where(total > 0, 2 * ours * theirs / total.clamp_min(1e-12), torch.zeros_like(total))


def clip_scores(
    encoder: Encoder,
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    read: Callable[[range], Tensor],
    batch: int = 64,
) -> dict[str, float]:
    """{clip_score, ref_clip_score}: means over images, every text behind the paper's prompt `A photo depicts`.

    read: uint8 [k, 3, S, S] pixels of a range of images, S the encoder's own image side.
    """
    image = embed_images(encoder, read, len(candidates), batch)
    caption = embed_texts(encoder, [PROMPT + text for text in candidates], batch)
    truths = embed_texts(encoder, [PROMPT + text for texts in references for text in texts], batch)
    owner = torch.repeat_interleave(torch.arange(len(references)), torch.tensor([len(texts) for texts in references]))
    likeness = torch.einsum("re,re->r", truths, caption[owner])
    nearest = torch.full((len(references),), -1.0).scatter_reduce(0, owner, likeness, "amax")
    return {
        "clip_score": float(clip_score(image, caption).double().mean()),
        "ref_clip_score": float(ref_clip_score(image, caption, nearest).double().mean()),
    }
