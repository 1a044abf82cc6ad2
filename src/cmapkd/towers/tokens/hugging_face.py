"""Readers of Hugging Face tokenizers: of tokenizer.json by the tokenizers library, of any other folder by transformers."""

from __future__ import annotations

import string
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.towers.sources.weights import read_config
from cmapkd.towers.tokens.by_offset import OffsetTokenizer
from cmapkd.towers.tokens.by_word import WordTokenizer
from cmapkd.towers.tokens.interface import NONE, Tokenizer
from cmapkd.towers.tokens.without_words import WordlessTokenizer
from cmapkd.towers.tokens.words import Clean, as_it_is

PROBE = "A small dog, wearing 2 red collars, doesn't look at the camera ."
PROBES = (
    PROBE,
    "Naïve cafés: don’t — 😀 東京 ½ ﬁt e\u0301!?  two  spaces\tand a tab ",
    "",
    "a",
    "tree_house & co... 1999 ABC",
)
GENERIC = (None, "PreTrainedTokenizerFast", "TokenizersBackend")  # classes that take tokenizer.json as it is
FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def of_folder(folder: Path, context: int) -> Tokenizer:
    """The tokenizer of a local folder, with the ids that transformers gives; no remote code is run."""
    config = tokenizer_config(folder)
    if config.get("tokenizer_class") == "SiglipTokenizer" and (folder / "tokenizer.json").is_file():
        fast = fast_of(folder)  # transformers has this class in Python alone, without offsets
        return of_fast(fast, special_id(fast, config, "pad"), context, siglip_clean, folder)
    inner = auto_tokenizer(folder)
    fill = {"padding": "max_length", "truncation": True, "max_length": context, "return_tensors": "pt"}
    return of_transformers(inner, lambda texts: inner(texts, **fill).input_ids, context)


def of_transformers(
    inner: Any, call: Callable[[list[str]], Tensor], context: int, clean: Clean = as_it_is, strip: int = NONE
) -> Tokenizer:
    """A tokenizer of transformers whose rows of ids are those of `call`; strip: id that `call` replaces by 0."""
    if inner.pad_token_id is None:
        inner.pad_token = inner.eos_token or inner.sep_token or inner.unk_token
    pad = int(inner.pad_token_id or 0)
    folder = Path(inner.name_or_path)
    where = folder if folder.is_dir() else None
    if inner.is_fast:
        sides = {"pad_left": inner.padding_side == "left", "cut_left": inner.truncation_side == "left"}
        with suppress(Exception):  # of a tokenizer with parts in Python, which the tokenizers library cannot copy
            fast = _copied(inner.backend_tokenizer)
            found = of_fast(fast, pad, context, clean, where, strip=strip, **sides)
            if torch.equal(found(PROBES)[0], call(list(PROBES)).long()):
                return found
    say(
        f"tokenizer {inner.name_or_path}: gives no character offsets, so the words of its tokens are unknown; no L1 and L2"
    )
    return WordlessTokenizer(inner, call, clean, context, where)


def of_fast(
    fast: Any, pad: int, context: int, clean: Clean, folder: Path | None, strip: int = NONE, **sides: bool
) -> Tokenizer:
    """A tokenizers.Tokenizer: word by word where the rows of PROBES are the same, else by offsets.

    Without cleaning, words are never taken one by one: tokenizers differ in what they take for white space.
    """
    whole = OffsetTokenizer(fast, pad, context, clean, folder, strip=strip, **sides)
    if clean is as_it_is or NONE in (whole.start, whole.end) or any(sides.values()):
        return whole
    split = WordTokenizer(
        lambda word: fast.encode(word, add_special_tokens=False).ids,
        whole.decode,
        clean,
        whole.start,
        whole.end,
        pad,
        context,
        folder,
    )
    same = all(torch.equal(a, b) for a, b in zip(whole(PROBES), split(PROBES), strict=True))
    return split if same else whole


def auto_tokenizer(folder: Path) -> Any:
    """A tokenizer of transformers from a folder; no remote code is run."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), **LOCAL)
    except Exception as error:  # transformers raises nothing narrower
        raise unreadable(folder, error) from None


def open_clip_tokenizer(source: Path | str, context: int, options: dict[str, Any], download: bool = False) -> Any:
    """open_clip's HFTokenizer of a folder, or of a model of the hub that is in the cache or, with `download`, is fetched."""
    from open_clip.tokenizer import HFTokenizer

    given: dict[str, Any] = options | LOCAL | {"local_files_only": not download}
    try:
        return HFTokenizer(str(source), context_length=context, **given)
    except Exception as error:  # transformers raises nothing narrower
        raise unreadable(source, error) from None


def fast_of(folder: Path) -> Any:
    """The tokenizers.Tokenizer of a folder's tokenizer.json."""
    from tokenizers import Tokenizer as Fast

    try:
        fast = Fast.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise unreadable(folder, error) from None
    fast.no_padding()
    fast.no_truncation()
    return fast


def _copied(fast: Any) -> Any:
    from tokenizers import Tokenizer as Fast

    return Fast.from_str(fast.to_str())


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """A folder's tokenizer_config.json, empty where it has none."""
    path = folder / "tokenizer_config.json"
    return read_config(path) if path.is_file() else {}


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that hold a vocabulary, in the order of their names."""
    return [folder / name for name in sorted(FILES) if (folder / name).is_file()]


def special_id(fast: Any, config: dict[str, Any], kind: str) -> int:
    """Id of a special token that tokenizer_config.json names as a string or an object, NONE where it names none."""
    name = config.get(f"{kind}_token")
    name = name.get("content") if isinstance(name, dict) else name
    found = fast.token_to_id(name) if name else None
    return NONE if found is None else found


def siglip_clean(text: str) -> str:
    """Lower case without ASCII punctuation, as the SiglipTokenizer of transformers has it."""
    return " ".join(text.lower().translate(WITHOUT_PUNCTUATION).split())


def unreadable(source: Path | str, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:100]
    return UsageError(f"{source}: its tokenizer cannot be read ({reason}); give a folder with its tokenizer.json")
