"""Batch norms over the batch of all processes: each normalises by the images of all, and so do its running statistics.

The result does not depend on the number of processes. torch's own SyncBatchNorm is for GPUs alone, and replaces modules.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cmapkd.distributed.collectives import sum_
from cmapkd.distributed.group import world


def over_all_processes(module: nn.Module) -> AbstractContextManager[Any]:
    """Inside the block batch norms see the images of all processes; nothing where there is one, or no batch norm."""
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
    return SharedBatchNorm() if world() > 1 and norms else nullcontext()


class SharedBatchNorm(TorchFunctionMode):
    """F.batch_norm in training with the mean and variance of all processes' rows."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and _training(*args, **kwargs):
            return _shared(*args, **kwargs)
        return func(*args, **kwargs)


def _training(
    x: Tensor, mean: Tensor | None, var: Tensor | None, weight: Any = None, bias: Any = None, training: bool = False, *_: Any,
    **__: Any,
) -> bool:  # fmt: skip
    return training


def _shared(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalised x [B, C, …] of this process; every process has as many values of each channel."""
    wide = x.float()
    axes, shape = [k for k in range(x.ndim) if k != 1], [1, -1, *[1] * (x.ndim - 2)]
    count = world() * x.numel() // x.shape[1]
    mean = Total.apply(wide.sum(axes)) / count
    centred = wide - mean.view(shape)
    variance = Total.apply(centred.square().sum(axes)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * (count / max(1, count - 1))).to(running_var), momentum)
    out = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        out = out * weight.view(shape)
    return (out if bias is None else out + bias.view(shape)).to(x.dtype)


class Total(torch.autograd.Function):
    """The sum of a tensor over the processes; the gradients of all processes add up, too."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        sum_([total])
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        sum_([total])
        return total
