"""HfImage: the image half of a Hugging Face model, read through its hidden states, as an ImageTower."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import Features
from cmapkd.pyramid import levels as lv
from cmapkd.pyramid.maps import last_level
from cmapkd.towers.evaluating import evaluating
from cmapkd.towers.families.image_features import image_features, measured

BEFORE = "output_hidden_states_before_downsampling"  # of Swin, whose stages end with the map of the next one


class ImageHalf(nn.Module):
    """A vision model of transformers and the projection of its pooled vector.

    pooled: `pooler` is the model's own pooled vector, `first` the first token; `any` is for a model without text: its own
    pooled vector, else the class token, else the mean. The modules belong to the whole model as well.
    """

    def __init__(
        self, vision: nn.Module, projection: nn.Module | None = None, pooled: Literal["pooler", "first", "any"] = "any"
    ) -> None:
        super().__init__()
        self.vision: Any = vision
        self.projection = projection
        self.pooled = pooled
        self.kind = str(self.vision.config.model_type)
        self.timm = getattr(vision, "timm_model", None) is not None
        self.train(vision.training)

    def forward(self, pixels: Tensor) -> Tensor:
        """The final embedding [B, E], not normalised."""
        return self.embedding(self.read(pixels))

    def read(self, pixels: Tensor, hidden: bool | list[int] = False) -> Any:
        """The vision model's own output; hidden: with its hidden states (or those of a timm model's blocks)."""
        states = {"output_hidden_states": hidden} if hidden else {}
        if hidden and _takes(self.vision, BEFORE):
            states[BEFORE] = True
        if self.kind == "siglip2_vision_model":  # reads patches in rows and the sides of their grid
            side = pixels.shape[-1] // self.vision.config.patch_size
            cut = pixels.unflatten(3, (side, -1)).unflatten(2, (side, -1)).permute(0, 2, 4, 3, 5, 1)
            shapes = torch.tensor([[side, side]] * len(pixels))
            return self.vision(cut.reshape(len(pixels), side * side, -1), None, shapes, **states)
        return self.vision(pixels, **states)

    def embedding(self, out: Any) -> Tensor:
        """The final embedding of the vision model's output."""
        last, pooled = out.last_hidden_state, getattr(out, "pooler_output", None)
        if self.pooled == "first":
            pooled = last[:, 0]
        elif pooled is None and self.pooled == "any":
            pooled = last.flatten(2).mean(2) if last.ndim == 4 else last[:, 0] if self._extra(last) else last.mean(1)
        elif pooled is None:
            raise UsageError(
                f"image tower {type(self.vision).__name__} has no pooled vector (pooler_output), from which its model "
                "projects; use one that has"
            )
        pooled = pooled.flatten(1)
        return pooled if self.projection is None else self.projection(pooled)

    def maps(self, out: Any) -> list[Tensor]:
        """Hidden states as the model gives them, [B, N, D] or [B, D, H, W], shallow to deep."""
        found = getattr(out, "reshaped_hidden_states", None)
        found = out.hidden_states if found is None else found
        if found is None:
            raise UsageError(f"image tower {type(self.vision).__name__} gives no hidden states; use one that does")
        return list(found)

    def patches(self, state: Tensor) -> Tensor:
        """The map of a hidden state as tokens [B, H·W, D]; class and register tokens stand before it."""
        return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state[:, self._extra(state) :]

    def class_token(self, state: Tensor, out: Any) -> Tensor | None:
        """The class token [B, D] of the last hidden state, None where the model has none."""
        if state.ndim == 4:  # of a timm ViT: only the output after the last norm has its class token
            last = out.last_hidden_state
            return last[:, 0] if last.ndim == 3 and last.shape[1] > state[0, 0].numel() else None
        return state[:, 0] if self._extra(state) else None

    def _extra(self, tokens: Tensor) -> int:
        """Number of tokens before the patches; few enough that the patches are the largest square."""
        return tokens.shape[1] - int(tokens.shape[1] ** 0.5) ** 2


class HfImage:
    """P2..P5 of hidden states: of a plain ViT as VitImage forms them, of a model of stages as ConvImage does.

    taps: index of each hidden state that is read.
    """

    def __init__(self, half: ImageHalf, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._half = half
        self.size, self.mean, self.std = size, mean, std
        with torch.no_grad(), evaluating(half):
            states = half.maps(half.read(torch.zeros(1, 3, size, size), hidden=True))
        counts = [half.patches(state).shape[1] for state in states]
        self.single_scale = len(set(counts)) == 1
        self.taps = self._taps(len(states))
        sizes = measured(half, self.levels, size)
        self.widths, self.grids, self.embedding = sizes.widths, sizes.grids, sizes.embedding

    def _taps(self, count: int) -> list[int]:
        first = 0 if self._half.timm else 1  # transformers begins with the input of the first block
        if self.single_scale:
            return [first + tap for tap in lv.tap_blocks(count - first, lv.IMAGE_CUTS)]
        if count < 4:
            name = type(self._half.vision).__name__
            raise UsageError(f"image tower {name} has {count} stages, but P2-P5 need four; use a tower with more")
        return list(range(count - 4, count))

    @property
    def native(self) -> nn.Module:
        return self._half

    @property
    def patch(self) -> int:
        return self.size // self.grids[2]

    def levels(self, pixels: Float[Tensor, "b 3 s s"]) -> Features:
        out = self._half.read(pixels, hidden=self.taps if self._half.timm else True)
        states = self._half.maps(out)
        states = states if self._half.timm else [states[tap] for tap in self.taps]
        maps = [self._half.patches(state) for state in states]
        if self.single_scale:
            side = -(-round(maps[2].shape[1] ** 0.5) // 2)
            last = last_level(maps[2], self._half.class_token(states[2], out), side)
        else:
            last = last_level(maps[3], None, round(maps[3].shape[1] ** 0.5))
        return image_features((maps[0], maps[1], maps[2], last), self._half.embedding(out))

    def encode(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b e"]:
        return self._half(pixels)

    def channels_last(self) -> None:
        """A change for models of stages only: the one convolution of a plain ViT cuts the patches."""
        if not self.single_scale:
            self._half.to(memory_format=torch.channels_last)


def _takes(vision: nn.Module, option: str) -> bool:
    """Whether a vision model hands an option through to its encoder."""
    inner, outer = getattr(getattr(vision, "encoder", None), "forward", None), inspect.signature(vision.forward)
    passes = any(p.kind is p.VAR_KEYWORD for p in outer.parameters.values())
    return passes and inner is not None and option in inspect.signature(inner).parameters


def hf_image(visual: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> HfImage | None:
    """The adapter of an ImageHalf, None for any other image tower."""
    return HfImage(visual, size, mean, std) if isinstance(visual, ImageHalf) else None


IMAGE_TOWERS = {"hf": hf_image}
