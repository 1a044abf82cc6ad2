"""Load a DualEncoder from a TowerConfig: named architectures, open_clip folders, OpenAI and Hugging Face checkpoints; no network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.named import folder_of, refuse_no_folder, split
from cmapkd.towers.sources import hugging_face, open_clip


def load_tower(
    config: TowerConfig,
    captions: Iterable[str] = (),
    tokenizer_folder: Path | None = None,
    teacher: TowerConfig | None = None,
    words: int = 24,
) -> DualEncoder:
    """The model that `config` names, with its weights if it names some, else randomly initialised.

    captions: texts that a `train:N` tokenizer is trained on; tokenizer_folder: where that tokenizer is written; teacher:
    the model whose tokenizer `tokenizer: teacher` refers to (its weights are not read); words: length of L1.
    Raises UsageError when the name, folder or weights cannot be used.
    """
    folder = folder_of(split(config)[0])
    if folder is None:
        return open_clip.named_model(config, captions, tokenizer_folder, teacher, words)
    refuse_no_folder(folder, config.model)
    if (folder / "open_clip_config.json").is_file() and not config.model.startswith("hf:"):
        return open_clip.folder_model(folder, config.model, words, config.image_size)
    if (folder / "config.json").is_file():
        if config.image_size is not None:
            raise UsageError(f"model {config.model}: image_size is for models of open_clip and timm; leave it out")
        return hugging_face.folder_model(folder, config.model, words)
    raise UsageError(
        f"model {config.model}: {folder} holds neither open_clip_config.json nor a Hugging Face config.json"
    )
