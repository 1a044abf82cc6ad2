"""Choice of a model's tokenizer: the one that the config asks for, that of its folder, or that of its architecture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.named import tokenizer_folder_of
from cmapkd.towers.sources.downloads import HOW, tokenizer_folder
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.towers.tokens.hugging_face import tokenizer_files

CLIP_SIZE = 49408  # entries of CLIP's vocabulary


def configured_tokenizer(
    config: TowerConfig,
    model_cfg: dict[str, Any],
    captions: Iterable[str],
    folder: Path | None,
    teacher: TowerConfig | None,
) -> tuple[tok.Tokenizer | None, Path | None]:
    """(tokenizer, its folder) that the config asks for; (None, None) when that is the architecture's own."""
    context, options = context_of(model_cfg), options_of(model_cfg)
    choice = config.tokenizer
    if choice == "own":
        return None, None
    if choice == "teacher":
        if teacher is None:
            raise UsageError("student.tokenizer is 'teacher', but the run has no teacher; use own, train:N or a folder")
        theirs = tokenizer_folder_of(teacher)
        return (None, None) if theirs is None else (tok.from_folder(theirs, context, options), theirs)
    if choice.startswith("train:"):
        size = choice.removeprefix("train:")
        if not size.isdigit() or int(size) < 64 or folder is None:
            raise UsageError(f"student.tokenizer is '{choice}'; train:N needs a whole number of entries, 64 or more")
        if (folder / "tokenizer.json").is_file():
            return tok.from_folder(folder, context, options), folder
        tok.train(captions, int(size), context, folder)
        return tok.from_folder(folder, context, options), folder
    return tok.from_folder(Path(choice), context, options), Path(choice)


def architecture_tokenizer(
    model_cfg: dict[str, Any], name: str, folder: Path | None = None, download: bool = False
) -> tok.Tokenizer:
    """The tokenizer that open_clip reads for this config: of the model's folder, or CLIP's.

    folder: of the model, whose tokenizer files count only where the config names a tokenizer, as in open_clip, or where the
    model's vocabulary is too small for CLIP's ids.
    Raises UsageError where it is on neither, nor in huggingface_hub's cache, and a download is not asked for.
    """
    import open_clip

    text, context, options = model_cfg["text_cfg"], context_of(model_cfg), options_of(model_cfg)
    named = text.get("hf_tokenizer_name")
    own = folder if folder is not None and tokenizer_files(folder) else None
    if not named and not (own and text.get("vocab_size", CLIP_SIZE) < CLIP_SIZE):
        return tok.from_open_clip(open_clip.SimpleTokenizer(context_length=context, **options), context)
    if own is not None:
        return tok.from_folder(own, context, options)
    if (fetched := tokenizer_folder(named, download)) is not None:
        return tok.from_folder(fetched, context, options)
    raise UsageError(
        f"model {name}: its tokenizer '{named}' would have to be downloaded; "
        f"give model: local-dir:FOLDER with a tokenizer.json, or tokenizer: FOLDER, {HOW}"
    )


def hugging_face_tokenizer(folder: Path, context: int) -> tok.Tokenizer:
    """The folder's tokenizer with open_clip's cleaning, or CLIP's own tokenizer where the folder has none."""
    import open_clip

    if tokenizer_files(folder):
        return tok.from_folder(folder, context)
    return tok.from_open_clip(open_clip.SimpleTokenizer(context_length=context), context)


def context_of(model_cfg: dict[str, Any]) -> int:
    """Length of a row of ids of an open_clip model config."""
    return model_cfg["text_cfg"].get("context_length", 77)


def options_of(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """Options of open_clip's tokenizers in a model config, such as `clean`."""
    text = model_cfg["text_cfg"]
    mode = text.get("tokenizer_mode")
    return dict(text.get("tokenizer_kwargs") or {}) | ({"tokenizer_mode": mode} if mode else {})
