"""Beam search over a captioner."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cmapkd.core.errors import UsageError
from cmapkd.tasks.captioning.decoder import END, PAD, START, Captioner


@dataclass(frozen=True)
class Hypotheses:
    """The k best captions of each image, best first. tokens: int64 [B, k, L] from START on, PAD behind END.

    log_probability: [B, k], summed over all tokens behind START; score: [B, k], that over length^penalty.
    """

    tokens: Tensor
    log_probability: Tensor
    score: Tensor


@torch.no_grad()
def beam_search(model: Captioner, visual: Float[Tensor, "b n d"], beams: int = 3, penalty: float = 0.7) -> Hypotheses:
    """Keep the `beams` most probable partial or finished captions at every step; rank the last ones by their score.

    score = log p / length^penalty, the length without START (Wu et al. 2016, arXiv:1609.08144, without their shift by
    five). A caption that is still open at the longest length ends there. One beam is the greedy search.
    """
    if beams < 1:
        raise UsageError(f"beams is {beams}; a search needs at least one")
    batch, device = len(visual), visual.device
    memory = [(k.repeat_interleave(beams, 0), v.repeat_interleave(beams, 0)) for k, v in model.memory(visual)]
    first, past = beams * torch.arange(batch, device=device)[:, None], None
    tokens = torch.full((batch, beams, 1), START, device=device)
    total = torch.full((batch, beams), float("-inf"), device=device)
    total[:, 0] = 0.0  # all beams are alike at the start: only one may grow
    done = torch.zeros(batch, beams, dtype=torch.bool, device=device)
    while tokens.shape[2] < model.longest and not bool(done.all()):
        logits, past = model.grow(memory, past, tokens[:, :, -1].flatten())
        grown = total[..., None] + next_log_probabilities(logits, done.flatten()).unflatten(0, (batch, beams))
        total, picked = grown.flatten(1).topk(beams, dim=1)
        parent, token = picked // grown.shape[2], picked % grown.shape[2]
        rows = (first + parent).flatten()
        past = [(k[rows], v[rows]) for k, v in past]
        tokens = torch.cat([tokens.gather(1, parent[..., None].expand_as(tokens)), token[..., None]], dim=2)
        done = done.gather(1, parent) | (token == END)
    length = (tokens[:, :, 1:] != PAD).sum(2).clamp_min(1)
    score = total / length**penalty
    order = score.argsort(dim=1, descending=True, stable=True)
    ranked = tokens.gather(1, order[..., None].expand_as(tokens))
    return Hypotheses(ranked, total.gather(1, order), score.gather(1, order))


def next_log_probabilities(logits: Float[Tensor, "b v"], done: Bool[Tensor, " b"]) -> Float[Tensor, "b v"]:
    """log p over words and END; a finished caption is followed by PAD with certainty, an open one never by PAD or START.

    The model is not asked to renormalise over what is allowed, so that sums agree with teacher forcing.
    """
    out = logits.float().log_softmax(-1)
    out[:, [PAD, START]] = float("-inf")
    out[done] = float("-inf")
    out[done, PAD] = 0.0
    return out
