"""Captioner: a small transformer decoder on a tower's visual tokens.

Its tokens are the student's tokenizer's; only those that occur in training captions have an output, so that a large
vocabulary does not make a small decoder large. Index 0 is padding, 1 the start, 2 the end; padding is known by its
place behind the end and not by its id, since CLIP's is also that of `!`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.towers.tokens.hugging_face import PROBE
from cmapkd.towers.tokens.interface import NONE, Tokenizer

PAD, START, END = 0, 1, 2
SPECIAL = 3
IGNORED = -100
Kept = tuple[Tensor, Tensor]  # keys and values [B, heads, N, D/heads]
FEED = 4  # the inner width of a feed-forward layer, in widths
CLITIC = re.compile(r" ('(?:s|t|re|ve|m|ll|d))\b", re.IGNORECASE)
CLOSING = re.compile(r"\s+([.,!?;:])")


@dataclass(frozen=True)
class Lexicon:
    """Output index SPECIAL + k ↔ token id `known[k]` of a tokenizer; known is int64 [V − 3], rising."""

    known: Tensor
    end: int

    @property
    def size(self) -> int:
        return SPECIAL + len(self.known)

    def compact(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """Indices of a tokenizer's rows: start, words, end, padding. Tokens that are not known become padding."""
        place = torch.searchsorted(self.known, ids.contiguous()).clamp_max(max(len(self.known) - 1, 0))
        known = self.known[place] == ids if len(self.known) else torch.zeros_like(ids, dtype=torch.bool)
        out = torch.where(known, place + SPECIAL, torch.full_like(ids, PAD))
        column = torch.arange(ids.shape[1])[None]
        end = first_end(ids, self.end)[:, None]
        out = torch.where(column == end, torch.full_like(ids, END), out.masked_fill(column > end, PAD))
        out[:, 0] = START
        return out

    def expand(self, row: Sequence[int]) -> list[int]:
        """The tokenizer's ids of the words of one row of indices."""
        return [int(self.known[index - SPECIAL]) for index in row if index >= SPECIAL]


def framed(ids: Int[Tensor, "b l"], tokenizer: Tokenizer) -> Int[Tensor, "b k"]:
    """Rows with a column before the text and an end token behind it, also where the tokenizer has none."""
    if tokenizer.end == NONE:
        ids = F.pad(ids.masked_fill(~tokenizer.real(ids), NONE), (0, 1), value=NONE)
    return ids if tokenizer.start != NONE else F.pad(ids, (1, 0), value=tokenizer.pad)


def build_lexicon(ids: Int[Tensor, "b l"], tokenizer: Tokenizer) -> Lexicon:
    """All tokens between start and end in any row of `ids`, as `framed` gives them."""
    column = torch.arange(ids.shape[1])[None]
    inside = (column > 0) & (column < first_end(ids, tokenizer.end)[:, None])
    return Lexicon(ids[inside].unique(sorted=True), tokenizer.end)


def first_end(ids: Int[Tensor, "b l"], end: int) -> Int[Tensor, " b"]:
    """Column of the first end token behind the start."""
    return (ids[:, 1:] == end).int().argmax(1) + 1


def caption_cross_entropy(
    logits: Float[Tensor, "b l v"], labels: Int[Tensor, "b l"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """−log p(label) averaged over the labels that are not IGNORED, with label smoothing."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)


def teacher_forcing(tokens: Int[Tensor, "b l"]) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b k"]]:
    """(inputs, labels) of rows of indices: each label is the next token, IGNORED for padding."""
    labels = tokens[:, 1:]
    return tokens[:, :-1], labels.masked_fill(labels == PAD, IGNORED)


def next_token_logits(
    captioner: Captioner, visual: Float[Tensor, "b n d"], tokens: Int[Tensor, "b l"]
) -> Float[Tensor, "b k v"]:
    """Logits of every next token of captions, by teacher forcing; `tokens` may be on another device."""
    inputs, _ = teacher_forcing(tokens.long())
    return captioner(visual, inputs.to(visual.device))


def caption_loss(
    logits: Float[Tensor, "b k v"], tokens: Int[Tensor, "b l"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Cross-entropy of `next_token_logits` of the same captions."""
    _, labels = teacher_forcing(tokens.long())
    return caption_cross_entropy(logits, labels.to(logits.device), smoothing)


class Captioner(nn.Module):
    """A transformer decoder: each token attends to the tokens before it and to the image's tokens.

    visual: width of the tokens given, which are layer-normed here. longest: tokens of a caption, start and end included.
    The output is tied to the token embedding.
    """

    def __init__(
        self, visual: int, lexicon: Lexicon, longest: int, width: int = 256, depth: int = 3, heads: int = 4,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if width % heads:
            raise UsageError(f"the captioner's width {width} must be a multiple of its {heads} heads")
        self.lexicon, self.longest = lexicon, longest
        self.enter = nn.Linear(visual, width)
        self.token = nn.Embedding(lexicon.size, width)
        self.position = nn.Parameter(torch.empty(longest, width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.leave = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.token.weight, std=width**-0.5)
        nn.init.normal_(self.position, std=0.02)

    @property
    def words(self) -> dict[str, Any]:
        """The part of head.json that explains the weights."""
        known = torch.as_tensor(self.lexicon.known).tolist()
        return {"tokens": known, "end": int(self.lexicon.end), "longest": self.longest}

    def forward(self, visual: Float[Tensor, "b n d"], tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l v"]:
        """Logits of the token after each of `tokens`."""
        return self.decode(self.memory(visual), tokens)

    def memory(self, visual: Float[Tensor, "b n d"]) -> list[Kept]:
        """Keys and values of the image for every block, which do not change while a caption grows."""
        entered = self.enter(F.layer_norm(visual, visual.shape[-1:]))
        return [block.read(entered) for block in self.blocks]  # type: ignore[operator, union-attr]

    def decode(self, memory: list[Kept], tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b l v"]:
        x = self.dropout(self.token(tokens) + self.position[: tokens.shape[1]])
        for block, seen in zip(self.blocks, memory, strict=True):
            x = block(x, seen)
        return F.linear(self.leave(x), self.token.weight)

    def grow(
        self, memory: list[Kept], past: list[Kept] | None, token: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b v"], list[Kept]]:
        """(logits of the token after `token`, keys and values with it): decoding with a key/value cache. past: None at START."""
        at = past[0][0].shape[2] if past else 0
        x, kept = self.dropout(self.token(token)[:, None] + self.position[at]), []
        for block, seen, before in zip(self.blocks, memory, past or [None] * len(memory), strict=True):
            x, own = block.grow(x, seen, before)  # type: ignore[operator, union-attr]
            kept.append(own)
        return F.linear(self.leave(x[:, 0]), self.token.weight), kept


class Block(nn.Module):
    """Causal self-attention, attention to the image, feed-forward; each with a norm before and a residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.own, self.ask, self.answer = (nn.Linear(width, k * width) for k in (3, 1, 2))
        self.out, self.seen_out = nn.Linear(width, width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, FEED * width), nn.GELU(), nn.Linear(FEED * width, width))
        self.dropout = nn.Dropout(dropout)

    def read(self, image: Float[Tensor, "b n d"]) -> Kept:
        """Keys and values of the image's tokens."""
        k, v = (self._split(x) for x in self.answer(self.norms[3](image)).chunk(2, dim=-1))
        return k, v

    def forward(self, x: Float[Tensor, "b l d"], seen: Kept) -> Float[Tensor, "b l d"]:
        return self.grow(x, seen)[0]

    def grow(
        self, x: Float[Tensor, "b l d"], seen: Kept, past: Kept | None = None
    ) -> tuple[Float[Tensor, "b l d"], Kept]:
        """(output, keys and values up to here) of all words, or of a single one that follows `past`."""
        q, k, v = (self._split(part) for part in self.own(self.norms[0](x)).chunk(3, dim=-1))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        x = x + self.dropout(self.out(self._attend(q, k, v, causal=past is None)))
        q = self._split(self.ask(self.norms[1](x)))
        x = x + self.dropout(self.seen_out(self._attend(q, *seen, causal=False)))
        return x + self.dropout(self.feed(self.norms[2](x))), (k, v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        rate = self.rate if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=rate).transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def text_decoder(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    """A function from token ids, without start and end, to text, by the tokenizer's own decoding.

    Raises UsageError for a tokenizer whose ids cannot be read back.
    """

    def decode(ids: Sequence[int]) -> str:
        return tidy(tokenizer.decode(ids))

    try:
        text = decode(tokenizer.pieces(PROBE))
        again = decode(tokenizer.pieces(text))
    except (KeyError, IndexError, OverflowError):
        text, again = "", None  # ids that the vocabulary does not have
    if again != text:
        where = tokenizer.folder or "this tokenizer has no folder and"
        raise UsageError(f"{where}: captions cannot be read back from its tokens; use a model with another tokenizer")
    return decode


def tidy(text: str) -> str:
    """`a dog 's ball .` → `a dog's ball.`, in one line."""
    return CLOSING.sub(r"\1", CLITIC.sub(r"\1", " ".join(text.split())))
