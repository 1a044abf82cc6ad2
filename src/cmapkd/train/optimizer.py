"""AdamW in two groups: matrices decay, norms, biases, scales and embeddings of one axis do not."""

from __future__ import annotations

import torch
from torch import nn

from cmapkd.config.schema import TrainConfig

OF_LOGITS = ("logit_scale", "logit_bias")  # parameters of the similarity, which are of no tower
# Positions and learnt tokens: open_clip, then the names of transformers and timm.
POSITIONS = ("positional_embedding", "position_embedding", "pos_embed", "class_embedding", "cls_token", "reg_token",
             "register_tokens", "mask_token", "head.probe", "bias_table")  # fmt: skip


def build_optimizer(learner: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    named = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    still = [p for name, p in named if is_still(name, p)]
    moving = [p for name, p in named if not is_still(name, p)]
    fused = all(p.is_cuda for p in moving + still)  # one kernel, which also skips an update by a flag on the device
    groups = [{"params": moving, "weight_decay": config.weight_decay}, {"params": still, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-8, foreach=not fused, fused=fused)


def is_still(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter does not decay."""
    return parameter.ndim < 2 or name.endswith(OF_LOGITS) or any(part in name for part in POSITIONS)
