"""Choice of a model's tokenizer: the one that the config asks for, that of its folder, or that of its architecture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.named import tokenizer_folder_of
from cmapkd.towers.tokens import tokenizer as tok


def configured_tokenizer(
    config: TowerConfig,
    model_cfg: dict[str, Any],
    captions: Iterable[str],
    folder: Path | None,
    teacher: TowerConfig | None,
) -> tuple[tok.Tokenizer | None, Path | None]:
    """(tokenizer, its folder) that the config asks for; (None, None) when that is the architecture's own."""
    context = model_cfg["text_cfg"].get("context_length", 77)
    choice = config.tokenizer
    if choice == "own":
        return None, None
    if choice == "teacher":
        if teacher is None:
            raise UsageError("student.tokenizer is 'teacher', but the run has no teacher; use own, train:N or a folder")
        theirs = tokenizer_folder_of(teacher)
        return (None, None) if theirs is None else (tok.from_folder(theirs, context), theirs)
    if choice.startswith("train:"):
        size = choice.removeprefix("train:")
        if not size.isdigit() or int(size) < 64 or folder is None:
            raise UsageError(f"student.tokenizer is '{choice}'; train:N needs a whole number of entries, 64 or more")
        if (folder / "tokenizer.json").is_file():
            return tok.from_folder(folder, context), folder
        return tok.train(captions, int(size), context, folder), folder
    return tok.from_folder(Path(choice), context), Path(choice)


def architecture_tokenizer(model_cfg: dict[str, Any], name: str) -> tok.Tokenizer:
    """The tokenizer that an architecture is published with: CLIP's, or a refusal where it is a download."""
    import open_clip

    text = model_cfg["text_cfg"]
    context = text.get("context_length", 77)
    if text.get("hf_tokenizer_name"):
        raise UsageError(
            f"model {name}: its tokenizer '{text['hf_tokenizer_name']}' would have to be downloaded; "
            "give model: local-dir:FOLDER with a tokenizer.json, or tokenizer: FOLDER"
        )
    return tok.from_open_clip(open_clip.SimpleTokenizer(context_length=context), context)


def hugging_face_tokenizer(folder: Path, context: int) -> tok.Tokenizer:
    """open_clip's reader of the folder's tokenizer files, or CLIP's own tokenizer where the folder has none."""
    import open_clip

    if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
        return tok.from_open_clip(open_clip.tokenizer.HFTokenizer(str(folder), context_length=context), context)
    return tok.from_open_clip(open_clip.SimpleTokenizer(context_length=context), context)
