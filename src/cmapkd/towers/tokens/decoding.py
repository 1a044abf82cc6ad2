"""Token ids back to text, by the tokenizers library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def decoder_of(fast: Any) -> Callable[[Sequence[int]], str]:
    """The decoding of a tokenizers.Tokenizer without special tokens.

    Words marked by a suffix are told apart here if tokenizer.json does not say how, which CLIP's does not either.
    """
    from tokenizers import decoders

    suffix = getattr(fast.model, "end_of_word_suffix", None)
    if not suffix:
        return lambda ids: fast.decode(list(ids), skip_special_tokens=True)
    if fast.decoder is None:
        fast.decoder = decoders.BPEDecoder(suffix)
    return lambda ids: fast.decode(list(ids), skip_special_tokens=True).replace(suffix, " ")
