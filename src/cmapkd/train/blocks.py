"""Means of single blocks of the student's towers: recomputed activations, and compilation; weights and their names stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cmapkd.core.log import say
from cmapkd.core.types import Inputs
from cmapkd.towers.dual import DualEncoder
from cmapkd.train.grad_cache import unmoved_statistics

PROBE = 2  # samples on which a compiled student is tried


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that follow each other in a list of their own kind: transformer blocks, stages of a ResNet."""
    for child in module.children():
        members = list(child.children())
        if (
            isinstance(child, nn.ModuleList | nn.Sequential)
            and len(members) > 1
            and len({type(m) for m in members}) == 1
        ):
            yield from members
        else:
            yield from repeated_blocks(child)


def recompute_activations(student: DualEncoder) -> None:
    """Keep only each block's input in the forward pass; the backward pass runs the block again, on the same random numbers.

    Blocks with a batch norm are left as they are: a second pass would move its statistics twice.
    """
    kept = 0
    for block in repeated_blocks(student.native):
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in block.modules()):
            kept += 1
        else:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if kept:
        say(f"train.checkpoint_activations: {kept} blocks have batch norms and keep their activations")


def compile_blocks(
    student: DualEncoder, precision: torch.dtype, backend: str | Callable[..., Any] = "inductor"
) -> bool:
    """Compile every block in place and try them on two samples; where that fails, say so in one line and go on without."""
    blocks = list(repeated_blocks(student.native))
    for block in blocks:
        block.compile(backend=backend)
    try:
        _try(student, precision)
    except Exception as error:
        for block in blocks:
            block._compiled_call_impl = None
        reason = " ".join(str(error).split())[:160]
        say(f"train.compile: cannot compile here ({type(error).__name__}: {reason}); going on without it")
        return False
    finally:
        student.zero_grad(set_to_none=True)
    return True


def _try(student: DualEncoder, precision: torch.dtype) -> None:
    """One forward and backward pass of two empty images and texts, in training mode, that leaves no trace."""
    ids, words = (part.to(student.device) for part in student.tokenizer(["a photo"] * PROBE))
    images = torch.zeros(PROBE, 3, student.size, student.size, dtype=torch.uint8, device=student.device)
    mode = student.training
    with torch.random.fork_rng(), unmoved_statistics(student):
        student.train()
        with torch.autocast(student.device.type, precision, enabled=precision != torch.float32):
            final = student.final(Inputs(images, ids, words))
        if final.image.requires_grad:
            (final.image.float().sum() + final.text.float().sum()).backward()
    student.train(mode)
