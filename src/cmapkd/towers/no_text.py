"""NoText: the text side of an image-only model, which gives nothing; and the model around an image tower alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cmapkd.core.types import Features
from cmapkd.towers.dual import DualEncoder, Package
from cmapkd.towers.protocols import ImageTower
from cmapkd.towers.similarity import Similarity
from cmapkd.towers.tokens.interface import NONE, Tokenizer


class NoTokens(Tokenizer):
    """The tokenizer of a model without a text tower: texts have no tokens."""

    def __init__(self) -> None:
        super().__init__(str, lambda ids: "", NONE, NONE, NONE, 0, None)

    def __call__(self, texts: Sequence[str]) -> tuple[Int[Tensor, "n 0"], Int[Tensor, "n 0"]]:
        """ids and words, int64 [n, 0]."""
        nothing = torch.zeros(len(texts), 0, dtype=torch.int64)
        return nothing, nothing

    def pieces(self, text: str) -> list[int]:
        return []


class NoText:
    """A TextTower whose embeddings have the width 0."""

    has_levels = False
    widths: tuple[int, ...] = ()
    words = 0

    def __init__(self, native: nn.Module) -> None:
        self.native = native
        self.tokenizer: Tokenizer = NoTokens()

    def levels(self, ids: Int[Tensor, "b l"], words: Int[Tensor, "b m"], trimmed: bool = False) -> Features:
        """Nothing: no level, and an embedding of width 0."""
        return Features((), (), (), self.encode(ids))

    def encode(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b 0"]:
        return torch.zeros(len(ids), 0, device=ids.device)

    def trim(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        return ids


class ImageOnly(nn.Module):
    """An image tower `visual` alone; logit_scale is 0, since there is nothing to scale."""

    logit_scale: Tensor

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.register_buffer("logit_scale", torch.zeros(()), persistent=False)


def image_only(image: ImageTower, package: Package, name: str) -> DualEncoder:
    """The model of an image tower alone."""
    native = ImageOnly(image.native)
    return DualEncoder(native, image, NoText(nn.Module()), Similarity(native), package, name)
