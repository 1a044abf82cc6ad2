"""Tokenizers that return the index of the word of each token, so that models with different vocabularies can be compared.

Text is cleaned as the model's own tokenizer cleans it and split at white space; the ids of the first
200,000 different words are kept. CLIP-type tokenizers never merge across white space, so the concatenation equals encoding the whole text;
`from_open_clip` checks that on a probe sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.towers.tokens.by_offset import OffsetTokenizer
from cmapkd.towers.tokens.by_word import WordTokenizer
from cmapkd.towers.tokens.interface import Tokenizer

PROBE = "A small dog, wearing 2 red collars, doesn't look at the camera ."


def from_open_clip(tokenizer: Any, context: int) -> Tokenizer:
    """An open_clip tokenizer (CLIP's BPE or a Hugging Face one). Raises UsageError where tokens merge across words."""
    if hasattr(tokenizer, "bpe_ranks"):
        wrapped = WordTokenizer(
            tokenizer.encode,
            tokenizer.clean_fn,
            tokenizer.sot_token_id,
            tokenizer.eot_token_id,
            0,
            context,
        )
    elif hasattr(tokenizer, "tokenizer"):
        wrapped = _from_hugging_face(tokenizer, context)
    else:
        raise UsageError(f"tokenizer {type(tokenizer).__name__} is neither open_clip's nor Hugging Face's")
    expected = tokenizer([PROBE])[0]
    if not torch.equal(wrapped([PROBE])[0][0], expected.long()):
        raise UsageError(
            f"tokenizer {type(tokenizer).__name__} merges across words, so its tokens cannot be told apart by word; "
            "use a model with a CLIP-type tokenizer"
        )
    return wrapped


def _from_hugging_face(tokenizer: Any, context: int) -> Tokenizer:
    """open_clip's HFTokenizer; BERT's CLS and SEP serve as start and end token."""
    inner = tokenizer.tokenizer
    start = inner.bos_token_id if inner.bos_token_id is not None else inner.cls_token_id
    end = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
    if start is None or end is None:
        raise UsageError(f"tokenizer {inner.name_or_path} has no start or end token; CLIP-type text towers need both")
    return WordTokenizer(
        lambda word: inner(word, add_special_tokens=False).input_ids,
        tokenizer.clean_fn,
        start,
        end,
        inner.pad_token_id or 0,
        context,
        Path(inner.name_or_path) if Path(inner.name_or_path).is_dir() else None,
    )


def from_folder(folder: Path, context: int) -> Tokenizer:
    """The tokenizer of a folder with tokenizer.json, read by the tokenizers library (transformers is not needed)."""
    from tokenizers import Tokenizer as Fast

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UsageError(f"{folder}: no tokenizer.json here; give a folder that holds one, or tokenizer: own")
    try:
        fast = Fast.from_file(str(path))
        special = json.loads((folder / "tokenizer_config.json").read_text())
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise UsageError(
            f"{folder}: tokenizer.json with tokenizer_config.json cannot be read ({' '.join(str(error).split())[:100]})"
        ) from None
    ids = [fast.token_to_id(special.get(key) or "") for key in ("bos_token", "eos_token", "pad_token")]
    if None in ids:
        raise UsageError(
            f"{folder}: tokenizer_config.json must name bos_token, eos_token and pad_token of tokenizer.json"
        )
    start, end, pad = (int(i or 0) for i in ids)
    return WordTokenizer(
        lambda word: fast.encode(word, add_special_tokens=False).ids,
        lambda text: " ".join(text.split()),
        start,
        end,
        pad,
        context,
        folder,
    )


def from_hugging_face(folder: Path, context: int) -> Tokenizer:
    """The fast tokenizer of a local folder, read by transformers without remote code; words by character offsets.

    Raises UsageError where the folder holds no tokenizer that transformers reads.
    """
    from tokenizers import Tokenizer as Fast
    from transformers import AutoTokenizer

    try:
        inner = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises nothing narrower
        raise UsageError(f"{folder}: no tokenizer can be read here ({' '.join(str(error).split())[:100]})") from None
    pad = next((i for i in (inner.pad_token_id, inner.eos_token_id) if i is not None), 0)
    if not inner.is_fast:
        raise UsageError(f"{folder}: its tokenizer has no tokenizer.json, so its tokens cannot be told apart by word")
    fast = Fast.from_str(inner.backend_tokenizer.to_str())
    left, cut_left = inner.padding_side == "left", inner.truncation_side == "left"
    return OffsetTokenizer(fast, lambda text: text, pad, context, folder, left, cut_left)


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
    """Number of entries of a tokenizer.json, special tokens included."""
    from tokenizers import Tokenizer as Fast

    return Fast.from_file(str(folder / "tokenizer.json")).get_vocab_size(with_added_tokens=True)
