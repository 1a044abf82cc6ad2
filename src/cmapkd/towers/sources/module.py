"""Image backbones of the user's own: a module with named taps, or with a method `levels`, as a student's image tower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.core.errors import UsageError, did_you_mean

SCHEME = "module:"
LEVELS = 4


@dataclass(frozen=True)
class Backbone:
    """A user's module and how it is read.

    module: pixels [B, 3, S, S] to an embedding [B, D], or to anything else where the mean of the last tap is the embedding.
    taps: names of four of its modules, whose outputs are P2..P5: maps [B, C, H, W], tokens [B, N, D], or maps [B, H, W, C]
    with channels_last. Without taps the module has a method `levels(pixels)` that returns (P2, P3, P4, P5, embedding).
    size: S; mean, std: of the pixels in 0..1. source: its name where a library builds it (`torchvision:NAME`).
    """

    module: nn.Module
    taps: tuple[str, ...] = ()
    size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels_last: bool = False
    source: str = ""

    @property
    def name(self) -> str:
        """The model name under which configs and messages know the backbone."""
        return self.source or f"{SCHEME}{type(self.module).__name__}"

    def facts(self) -> dict[str, Any]:
        """The backbone as plain values: its name, taps, image size, mean, std and layout; kept in configs and folders."""
        return {
            "module": type(self.module).__name__, "taps": list(self.taps), "image_size": self.size,
            "mean": list(self.mean), "std": list(self.std), "channels_last": self.channels_last, "source": self.source,
        }  # fmt: skip


GIVEN: ContextVar[Backbone | None] = ContextVar("GIVEN", default=None)


@contextmanager
def given(backbone: Backbone) -> Iterator[None]:
    """Inside the block `module:NAME` names this backbone."""
    token = GIVEN.set(backbone)
    try:
        yield
    finally:
        GIVEN.reset(token)


def backbone_of(name: str) -> Backbone:
    """The backbone that was given. Raises UsageError where none was, as on the command line."""
    found = GIVEN.get()
    if found is None:
        raise UsageError(
            f"model {name}: is a module of your own code, which no file holds; give it again: cmapkd.distill(student=module, "
            "…, resume=True), or cmapkd.load(folder, image=module)"
        )
    return found


class UserVisual(nn.Module):
    """The user's module with a linear map from its embedding [B, D] to the joint space [B, E]; without one for E = 0."""

    def __init__(self, backbone: Backbone, embedding: int) -> None:
        super().__init__()
        self.module, self.backbone = backbone.module, backbone
        self._taps = [_tap(self.module, name) for name in backbone.taps]
        if not self._taps and not hasattr(self.module, "levels"):
            raise UsageError(
                f"student {type(self.module).__name__}: give taps=(…), the names of four of its modules whose outputs are P2..P5, or "
                "a method levels(pixels) that returns (P2, P3, P4, P5, embedding)"
            )
        if self._taps and len(self._taps) != LEVELS:
            raise UsageError(f"taps: {len(self._taps)} names, but P2..P5 are four; give four")
        width = self._probed()
        self.head = nn.Linear(width, embedding, bias=False) if embedding else nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self._read(pixels)[1] if self._taps else self.module.levels(pixels)[-1])  # type: ignore[operator]

    def levels(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """(tokens [B, N, D] of P2..P5, embedding [B, E])."""
        raw, embedding = self._read(pixels)
        return [self._tokens(each) for each in raw], self.head(embedding)

    def _read(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """(raw outputs of the taps, embedding [B, D])."""
        if not self._taps:
            *levels, embedding = self.module.levels(pixels)  # type: ignore[operator]
            return list(levels), embedding
        kept: dict[int, Tensor] = {}
        hooks = [tap.register_forward_hook(partial(_keep, kept, k)) for k, tap in enumerate(self._taps)]
        try:
            out = self.module(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        levels = [kept[k] for k in range(LEVELS)]
        flat = isinstance(out, Tensor) and out.ndim == 2
        return levels, out if flat else self._tokens(levels[-1]).mean(1)

    def _tokens(self, raw: Tensor) -> Tensor:
        """[B, N, D] of a map or of tokens."""
        if raw.ndim == 3:
            return raw
        return raw.flatten(1, 2) if self.backbone.channels_last else raw.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def _probed(self) -> int:
        """D, from one empty image. Raises UsageError for outputs that are no square maps, or not finite."""
        mode, name = self.module.training, type(self.module).__name__
        self.module.eval()
        size = self.backbone.size
        try:
            raw, embedding = self._read(torch.zeros(1, 3, size, size))
        except KeyError as error:
            raise UsageError(
                f"taps: '{self.backbone.taps[error.args[0]]}' of {name} did not run in its forward"
            ) from None
        finally:
            self.module.train(mode)
        where = self.backbone.taps or tuple(f"levels()[{k}]" for k in range(LEVELS))
        for tap, level in zip(where, raw, strict=True):
            if not isinstance(level, Tensor) or level.ndim not in (3, 4):
                raise UsageError(
                    f"tap '{tap}' of {name}: gives no map [B, C, H, W] and no tokens [B, N, D]; choose another"
                )
            count = self._tokens(level).shape[1]
            if round(count**0.5) ** 2 != count:
                shape = tuple(level.shape)
                raise UsageError(
                    f"tap '{tap}' of {name}: gives {shape}, which is no square map; give images and taps of square maps, without class "
                    "tokens, and channels_last=True for maps [B, H, W, C]"
                )
            if not bool(level.isfinite().all()):
                raise UsageError(
                    f"tap '{tap}' of {name}: gives numbers that are not finite for an empty image; mend the module"
                )
        if embedding.ndim != 2 or not bool(embedding.isfinite().all()):
            raise UsageError(f"student {name}: its embedding is not [B, D] of finite numbers; mend the module")
        return embedding.shape[1]


def _keep(kept: dict[int, Tensor], k: int, module: nn.Module, inputs: Any, out: Tensor) -> None:
    """A forward hook that keeps the output of tap k."""
    kept[k] = out


def _tap(module: nn.Module, name: str) -> nn.Module:
    """The module of a name. Raises UsageError with the nearest name."""
    known = dict(module.named_modules())
    if name not in known or not name:
        raise UsageError(
            f"taps: {type(module).__name__} has no module '{name}'{did_you_mean(name, [key for key in known if key])}; "
            "see module.named_modules()"
        )
    return known[name]
