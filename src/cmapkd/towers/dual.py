"""Tower: any open_clip model, asked for Features. Teacher and student are roles of this one type."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.core.types import Features, Inputs, Pair
from cmapkd.pyramid import levels as lv
from cmapkd.pyramid.levels import Shape
from cmapkd.pyramid.maps import last_level, mean_tokens
from cmapkd.towers.tokenizer import Tokenizer
from cmapkd.towers.trimmed import briefly, can_be_brief, length_of


class Tower(nn.Module):
    """A CLIP-like model with its own tokenizer, resolution, mean and std. `words` is the length of L1."""

    mean: Tensor
    std: Tensor
    clip: Any

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Tokenizer,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        config: dict[str, Any],
        name: str,
        words: int = 24,
    ) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.size, self.config, self.name, self.words = (
            clip, tokenizer, size, config, name, words,
        )  # fmt: skip
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)
        self.mean_std = (mean, std)
        visual: Any = clip.visual
        self.is_vit, self.image_taps = _image_taps(visual)
        text = self.text_module
        if not hasattr(text, "transformer") or not hasattr(text.transformer, "resblocks"):
            raise UsageError(f"model {name}: its text tower is not an open_clip transformer, so it has no levels L1-L4")
        self.text_taps = lv.tap_blocks(len(text.transformer.resblocks), lv.TEXT_CUTS)
        self.brief = can_be_brief(text)
        self.shape = self._probe()

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), the inverse temperature of the final embeddings, clamped at 100 (CLIP)."""
        return self.clip.logit_scale.exp().clamp_max(100.0)

    def normalise(self, images: Tensor) -> Tensor:
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def image(self, images: Tensor) -> Features:
        """Features P2..P5 of uint8 images [B, 3, S, S]."""
        out = self.clip.visual.forward_intermediates(
            self.normalise(images),
            indices=self.image_taps,
            output_fmt="NLC" if self.is_vit else "NCHW",
            output_extra_tokens=self.is_vit,
        )
        maps = out["image_intermediates"]
        if self.is_vit:
            prefix = out.get("image_intermediates_prefix")
            summary = prefix[-1][:, 0] if prefix else None
            side = -(-round(maps[-1].shape[1] ** 0.5) // 2)
            tokens = (*maps, last_level(maps[-1], summary, side))
        else:
            flat = [m.flatten(2).transpose(1, 2) if m.ndim == 4 else m for m in maps]
            tokens = (*flat[:3], last_level(flat[3], None, round(flat[3].shape[1] ** 0.5)))
        pooled = (*(lv.mean_max(t, None) for t in tokens[:3]), lv.summary_mean(tokens[3][:, -2], tokens[3][:, -1]))
        return Features(tokens, (None,) * 4, pooled, out["image_features"])

    def text(self, ids: Tensor, words: Tensor) -> Features:
        """Features L1..L4 of token ids [B, L]; padding enters no mean, and is not computed where nothing looks at it."""
        length = self._length(ids)
        ids, words, taps = ids[:, :length], words[:, :length], self.text_taps
        if self.text_module is self.clip:
            call = partial(self.clip.forward_intermediates, text=ids, text_indices=taps, normalize=False)
        else:
            call = partial(self.clip.text.forward_intermediates, ids, indices=taps, output_fmt="NLC")
        out = briefly(self.text_module, length, call)
        shallow, middle, deep, final = *out["text_intermediates"], out["text_features"]
        ends = (ids == self.tokenizer.end).int().argmax(1)
        end = deep[torch.arange(len(ids), device=ids.device), ends]
        real = torch.arange(ids.shape[1], device=ids.device)[None] <= ends[:, None]
        sentence = mean_tokens(deep, real)
        word, word_mask = lv.pool_words(shallow, words, self.words)
        phrase, phrase_mask = lv.pool_words(middle, words, -(-self.words // lv.PHRASE), lv.PHRASE)
        tokens = (word, phrase, sentence[:, None], end[:, None])
        pooled = (
            lv.mean_max(word, word_mask),
            lv.mean_max(phrase, phrase_mask),
            lv.mean_max(deep, real),
            lv.summary_mean(end, sentence),
        )
        return Features(tokens, (word_mask, phrase_mask, None, None), pooled, final)

    def channels_last(self) -> Tower:
        """Lay convolutions' weights out as [out, H, W, in], which their kernels want; a plain transformer stays as it is."""
        if not self.is_vit:
            self.clip.visual.to(memory_format=torch.channels_last)
        return self

    def final(self, inputs: Inputs) -> Pair[Tensor]:
        """Final embeddings alone, [B, E] each, not normalised: what `forward` gives as `final`, without the levels."""
        ids = inputs.ids[:, : self._length(inputs.ids)]
        text = briefly(self.text_module, ids.shape[1], partial(self.clip.encode_text, ids))
        return Pair(self.clip.encode_image(self.normalise(inputs.images)), text)

    @property
    def text_module(self) -> Any:
        """The module that holds the text tower: the model itself, or its `text`."""
        return self.clip if hasattr(self.clip, "token_embedding") else self.clip.text

    def _length(self, ids: Tensor) -> int:
        return length_of(ids, self.tokenizer.end) if self.brief else ids.shape[1]

    @property
    def patch(self) -> int:
        """Pixels of a side of one token of the deepest map."""
        return self.size // self.shape.grids[2]

    def forward(self, inputs: Inputs) -> Pair[Features]:
        return Pair(self.image(inputs.images), self.text(inputs.ids, inputs.words))

    @property
    def image_size(self) -> int:
        return self.size

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] to L2-normalised float32 [n, E], in eval mode."""
        return F.normalize(self.raw_images(images), dim=-1)

    @torch.inference_mode()
    def raw_images(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] to float32 [n, E] as the tower gives them, not normalised, in eval mode."""
        with evaluating(self):
            return self.clip.encode_image(self.normalise(images.to(self.device))).float()

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """n texts, each in its whole context as open_clip reads it, to L2-normalised float32 [n, E], in eval mode."""
        with evaluating(self):
            return F.normalize(self.clip.encode_text(self.tokenizer(texts)[0].to(self.device)).float(), dim=-1)

    @torch.no_grad()
    def _probe(self) -> Shape:
        with evaluating(self):
            image = self.image(torch.zeros(1, 3, self.size, self.size, dtype=torch.uint8))
            text = self.text(*self.tokenizer(["a photo"]))
        sides = [round(t.shape[1] ** 0.5) for t in image.levels[:3]] + [round((image.levels[3].shape[1] - 2) ** 0.5)]
        return Shape(
            tuple(t.shape[-1] for t in image.levels),  # type: ignore[arg-type]
            tuple(sides),  # type: ignore[arg-type]
            tuple(t.shape[-1] for t in text.levels),  # type: ignore[arg-type]
            image.final.shape[-1],
        )


class evaluating:
    """Eval mode inside the block, the former mode after it."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.was = module, module.training

    def __enter__(self) -> None:
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        self.module.train(self.was)


def _image_taps(visual: Any) -> tuple[bool, list[int]]:
    """(is it a plain transformer, indices of its intermediates): three block groups, or the last four stages."""
    if hasattr(visual, "transformer") and hasattr(visual, "class_embedding"):
        return True, lv.tap_blocks(len(visual.transformer.resblocks), lv.IMAGE_CUTS)
    if hasattr(visual, "layer4"):
        return False, [1, 2, 3, 4]
    trunk = getattr(visual, "trunk", None)
    if trunk is None or not hasattr(trunk, "forward_intermediates"):
        raise UsageError(
            f"image tower {type(visual).__name__} gives no intermediate features; use an open_clip ViT or RN"
        )
    if hasattr(trunk, "blocks") and hasattr(trunk, "patch_embed"):
        return True, lv.tap_blocks(len(trunk.blocks), lv.IMAGE_CUTS)
    return False, list(range(len(trunk.feature_info) - 4, len(trunk.feature_info)))
