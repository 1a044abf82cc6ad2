"""DualEncoder: an image tower, a text tower and their similarity. Teacher and student are roles of this one type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import SIDES, Features, Inputs, Pair, Side
from cmapkd.pyramid.levels import Shape
from cmapkd.towers.evaluating import evaluating
from cmapkd.towers.freeze import frozen_modules
from cmapkd.towers.protocols import ImageTower, TextTower
from cmapkd.towers.similarity import Similarity
from cmapkd.towers.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Package:
    """The library that opens a model's folder, and the model's config in that library's own format."""

    library: Literal["open_clip", "transformers", "timm", "module"]
    config: dict[str, Any]


class DualEncoder(nn.Module):
    """A CLIP-type model with its own tokenizer, resolution, mean and std.

    All weights belong to `native`, registered once under the name `clip`; the towers and the similarity are plain
    objects that refer to parts of it. package: the library that opens the model, with its config; name: as the user gave it.
    frozen: the sides that do not learn (towers/freeze.py); kept: the one of them that is the teacher's own (towers/joined.py).
    """

    mean: Tensor
    std: Tensor
    clip: nn.Module

    def __init__(
        self,
        native: nn.Module,
        image: ImageTower,
        text: TextTower,
        similarity: Similarity,
        package: Package,
        name: str,
    ) -> None:
        super().__init__()
        self.clip = native
        self.image, self.text, self.similarity, self.package, self.name = image, text, similarity, package, name
        self.register_buffer("mean", torch.tensor(image.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(image.std).view(1, 3, 1, 1) * 255, persistent=False)
        words = text.tokenizer.has_words
        sides = SIDES if text.tokenizer.context else SIDES[:1]
        self.shape = Shape(image.widths, image.grids, text.widths, image.embedding, words, sides)
        self.frozen: tuple[Side, ...] = ()
        self.kept: Side | None = None

    @property
    def native(self) -> nn.Module:
        """The model of its library, for code that counts, reads, changes or exports its weights."""
        return self.clip

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.tokenizer

    @property
    def size(self) -> int:
        """Side in pixels of the images that the model reads."""
        return self.image.size

    @property
    def image_size(self) -> int:
        """`size`, under the name that an Encoder (tasks/encoder.py) has for it."""
        return self.image.size

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels 0..255 [B, 3, S, S] to the float pixels that the image tower reads."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def train(self, mode: bool = True) -> DualEncoder:
        """As any module, but frozen sides stay in eval mode."""
        super().train(mode)
        for module in frozen_modules(self):
            module.eval()
        return self

    def forward(self, inputs: Inputs, known: Tensor | None = None) -> Pair[Features]:
        """Levels and final embeddings of both modalities; known: the embeddings of the kept side, which is then not computed."""
        given = None if known is None else Features((), (), (), known)
        if given is not None and self.kept == "image":
            return Pair(given, self.text.levels(inputs.ids, inputs.words, inputs.trimmed))
        image = self.image.levels(self.normalise(inputs.images))
        return Pair(image, given or self.text.levels(inputs.ids, inputs.words, inputs.trimmed))

    def final(self, inputs: Inputs, known: Tensor | None = None) -> Pair[Tensor]:
        """Final embeddings alone, [B, E] each, not normalised: the `final` of `forward`, without computing the levels."""
        image = known if self.kept == "image" else None
        text = known if self.kept == "text" else None
        if image is None:
            image = self.image.encode(self.normalise(inputs.images))
        if text is None:
            text = self.text.encode(inputs.ids if inputs.trimmed else self.text.trim(inputs.ids))
        return Pair(image, text)

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] to L2-normalised float32 [n, E], in eval mode."""
        return F.normalize(self.raw_images(images), dim=-1)

    @torch.inference_mode()
    def raw_images(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] to float32 [n, E] before L2 normalisation, in eval mode."""
        with evaluating(self):
            return self.image.encode(self.normalise(images.to(self.device))).float()

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """n texts, padded as the model's library does, to L2-normalised float32 [n, E], in eval mode."""
        if "text" not in self.shape.sides:
            raise UsageError(
                f"model {self.name}: it has no text tower, so it embeds no texts; give a model with both towers"
            )
        ids, _ = self.tokenizer(texts)
        if self.package.library == "transformers":  # open_clip pads to the whole context
            ids = self.text.trim(ids)
        with evaluating(self):
            return F.normalize(self.text.encode(ids.to(self.device)).float(), dim=-1)

    def channels_last(self) -> DualEncoder:
        """Store convolutions in the layout of their fastest kernels; returns the model itself."""
        self.image.channels_last()
        return self
