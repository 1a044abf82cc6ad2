"""Small tokenizers of every kind, trained on a few sentences and written as folders of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = [
    "A small dog, wearing 2 red collars, doesn't look at the camera .",
    "Two children play football in the park -- it is raining!",
    "a photo of a café, naïve résumé of the best friends in town",
    "The quick brown fox jumps over the lazy dogs; 100 people watch.",
    "An old man with a hat sits on a bench & reads the newspaper",
] * 3


def word_piece(folder: Path, size: int = 200) -> Path:
    """BERT's: lower-cased, without accents, [CLS] and [SEP]."""
    fast = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    fast.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=size, special_tokens=special))
    around = [(name, fast.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    fast.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return written(fast, folder, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def unigram(folder: Path, size: int = 200, **config: str) -> Path:
    """T5's and SigLIP's: a piece starts with the space before it; `</s>` after the text and none before it."""
    fast = Tokenizer(models.Unigram())
    fast.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    fast.train_from_iterator(SENTENCES, trainer)
    fast.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", fast.token_to_id("</s>"))]
    )
    return written(fast, folder, **{"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | config)


def byte_level(folder: Path, size: int = 400, trim: bool = True, prefix: bool = False) -> Path:
    """RoBERTa's: bytes, `<s>` and `</s>`, the space before a word is part of its first token. trim: it is left out of offsets."""
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>"]
    fast.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    )
    fast.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim, add_prefix_space=prefix
    )
    return written(
        fast, folder, bos_token="<s>", eos_token="</s>", pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    )


def letters(folder: Path) -> Path:
    """ByT5's: one token a byte, in Python alone, so that there are no offsets."""
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    return folder


def written(fast: Tokenizer, folder: Path, **special: str) -> Path:
    """The folder, with tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    fast.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


KINDS = {"word_piece": word_piece, "unigram": unigram, "byte_level": byte_level}
