"""AdamW in two groups: matrices decay, norms, biases, scales and embeddings of one axis do not."""

from __future__ import annotations

import torch
from torch import nn

from cmapkd.config.schema import TrainConfig

OF_LOGITS = ("logit_scale", "logit_bias")  # parameters of the similarity, which are of no tower


def build_optimizer(learner: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    named = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    still = [p for name, p in named if p.ndim < 2 or "positional_embedding" in name or name.endswith(OF_LOGITS)]
    moving = [p for name, p in named if not (p.ndim < 2 or "positional_embedding" in name or name.endswith(OF_LOGITS))]
    fused = all(p.is_cuda for p in moving + still)  # one kernel, which also skips an update by a flag on the device
    groups = [{"params": moving, "weight_decay": config.weight_decay}, {"params": still, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-8, foreach=not fused, fused=fused)
