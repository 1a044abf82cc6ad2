"""ImageTower and TextTower: all that the project asks of the two halves of a CLIP-type model, whatever its family."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from cmapkd.core.types import Features
from cmapkd.towers.tokens.tokenizer import Tokenizer


@runtime_checkable
class ImageTower(Protocol):
    """Normalised pixels to P2..P5 or to the final embedding alone.

    size: S, side of the images in pixels; mean, std: per colour channel, of pixels in 0..1; widths, grids: of P2..P5
    (P5's grid is its side without the two extra tokens); embedding: E; single_scale: whether P2..P4 share one grid, as
    in a plain ViT; native: the wrapped module, for code that reads or changes weights.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    widths: tuple[int, int, int, int]
    grids: tuple[int, int, int, int]
    embedding: int
    single_scale: bool

    @property
    def native(self) -> nn.Module: ...

    @property
    def patch(self) -> int:
        """Side in pixels of the square that one token of P4 covers."""
        ...

    def levels(self, pixels: Float[Tensor, "b 3 s s"]) -> Features:
        """P2..P5 and the final embedding."""
        ...

    def encode(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b e"]:
        """The final embedding alone, not normalised."""
        ...

    def channels_last(self) -> None:
        """Store the weights of convolutions as [out, H, W, in], the layout of their fastest kernels."""
        ...


@runtime_checkable
class TextTower(Protocol):
    """Token ids to L1..L4 or to the final embedding alone.

    has_levels: whether `levels` gives L1..L4, else the final embedding alone; widths: of L1..L4, empty without levels; words: length of L1;
    native: the wrapped module, for code that reads or changes weights.
    """

    tokenizer: Tokenizer
    has_levels: bool
    widths: tuple[int, ...]
    words: int

    @property
    def native(self) -> nn.Module: ...

    def levels(self, ids: Int[Tensor, "b l"], words: Int[Tensor, "b m"], trimmed: bool = False) -> Features:
        """L1..L4 and the final embedding; `words` is the index of the word of each token, as the tokenizer gives it.

        trimmed: the ids come from `trim`, which is not called again.
        """
        ...

    def encode(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        """The final embedding alone, not normalised."""
        ...

    def trim(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b m"]:
        """The ids without the columns of padding that no text of the batch needs, where that changes no embedding."""
        ...
