"""Tokenizers of models, by where they come from: open_clip, a folder's tokenizer.json, a Hugging Face folder, training captions.

All give the index of the white-space word of each token, so that models with different vocabularies can be compared:
word by word where that is exact, else by the character offsets of tokens, else not at all (`has_words`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.towers.tokens import hugging_face as hf
from cmapkd.towers.tokens.by_word import WordTokenizer
from cmapkd.towers.tokens.interface import NONE, Tokenizer


def from_open_clip(tokenizer: Any, context: int) -> Tokenizer:
    """An open_clip tokenizer: CLIP's BPE, or one around a tokenizer of Hugging Face. Raises UsageError for any other."""
    if hasattr(tokenizer, "bpe_ranks"):
        start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        return WordTokenizer(_clip_encode(tokenizer), tokenizer.decode, tokenizer.clean_fn, start, end, 0, context)
    if not hasattr(tokenizer, "tokenizer"):
        raise UsageError(f"tokenizer {type(tokenizer).__name__} is neither open_clip's nor Hugging Face's")
    inner = tokenizer.tokenizer
    strip = inner.sep_token_id if getattr(tokenizer, "strip_sep_token", False) else NONE
    clean = getattr(tokenizer, "clean_fn", None) or _cleaning("canonicalize")  # SigLipTokenizer has no attribute for it
    return hf.of_transformers(inner, lambda texts: tokenizer(texts, context), context, clean, strip)


def _clip_encode(tokenizer: Any) -> Callable[[str], list[int]]:
    """The ids of a cleaned word, as open_clip's SimpleTokenizer.encode gives them but without cleaning it once more."""
    letters = tokenizer.byte_encoder

    def encode(word: str) -> list[int]:
        parts = ("".join(letters[byte] for byte in part.encode()) for part in tokenizer.pat.findall(word))
        return [tokenizer.encoder[piece] for part in parts for piece in tokenizer.bpe(part).split(" ")]

    return encode


def _cleaning(name: str) -> Callable[[str], str]:
    from open_clip.tokenizer import get_clean_fn

    return get_clean_fn(name)


def from_folder(folder: Path, context: int, options: Mapping[str, Any] | None = None) -> Tokenizer:
    """The tokenizer of a folder, with the ids that open_clip's HFTokenizer gives; options: HFTokenizer's own, such as `clean`.

    Raises UsageError where it cannot be read. A tokenizer.json of no special class is read without transformers.
    """
    from tokenizers import processors

    options = dict(options or {})
    config = hf.tokenizer_config(folder)
    if not hf.tokenizer_files(folder):
        raise UsageError(f"{folder}: no tokenizer.json here; give a folder that holds one, or tokenizer: own")
    if config.get("tokenizer_class") not in hf.GENERIC or set(options) - {"clean"}:
        return from_open_clip(hf.open_clip_tokenizer(folder, context, options), context)
    fast = hf.fast_of(folder)
    start, end, pad = (hf.special_id(fast, config, kind) for kind in ("bos", "eos", "pad"))
    if not fast.encode("").ids:
        if NONE in (start, end):
            raise UsageError(
                f"{folder}: tokenizer.json puts no special tokens around a text, and tokenizer_config.json names no "
                "bos_token and eos_token of it; give a tokenizer with an end token"
            )
        between = [(fast.id_to_token(k), k) for k in (start, end)]
        template = f"{between[0][0]} $A {between[1][0]}"
        fast.post_processor = processors.TemplateProcessing(single=template, special_tokens=between)
    return hf.of_fast(fast, max(pad, 0), context, _cleaning(options.get("clean", "whitespace")), folder)


def from_hugging_face(folder: Path, context: int) -> Tokenizer:
    """The tokenizer of a local folder, with the ids that transformers gives; no remote code is run.

    Raises UsageError where the folder holds no tokenizer that transformers reads.
    """
    return hf.of_folder(folder, context)


def train(texts: Iterable[str], size: int, context: int, folder: Path) -> Tokenizer:
    """Train a lower-casing BPE of at most `size` entries and write it to `folder` in Hugging Face's format.

    The end token has the largest id, as CLIP's pooling by argmax requires; padding is 0. A word starts with a marker
    character instead of ending with CLIP's `</w>`: the trainer numbers letters with a suffix in the order of a hash
    table, so two trainings on the same captions would differ.
    """
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from tokenizers import Tokenizer as Fast

    fast = Fast(models.BPE(unk_token="<unk>"))
    fast.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pieces = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, behavior="removed", invert=True), pre_tokenizers.Metaspace()]
    )
    fast.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        special_tokens=["<pad>", "<start>", "<unk>"],
        show_progress=False,
        min_frequency=2,
    )
    fast.train_from_iterator(texts, trainer)
    fast.add_special_tokens(["<end>"])
    start, end = fast.token_to_id("<start>"), fast.token_to_id("<end>")
    fast.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", start), ("<end>", end)]
    )
    special = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<start>",
        "eos_token": "<end>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": context,
    }
    folder.mkdir(parents=True, exist_ok=True)
    fsio.write_bytes(folder / "tokenizer.json", fast.to_str().encode())
    fsio.write_json(folder / "tokenizer_config.json", special)
    return from_folder(folder, context)


def vocabulary(folder: Path) -> int:
    """Number of entries of a folder's tokenizer, special tokens included."""
    if (folder / "tokenizer.json").is_file():
        return hf.fast_of(folder).get_vocab_size(with_added_tokens=True)
    return len(hf.auto_tokenizer(folder))
