"""Export of a transformers model as a Hugging Face folder that AutoModel.from_pretrained opens: config, weights, tokenizer, card."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.export.folder import write_folder
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.sources.hugging_face import quiet

CONFIG, CARD, PREPROCESSOR = "config.json", "README.md", "preprocessor_config.json"
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip


def save_transformers(tower: DualEncoder, folder: Path, card: str, replace: bool = False) -> Path:
    """Write a model of package `transformers` as a Hugging Face folder, in one rename; weights are float32.

    Raises UsageError when the folder exists, or when the tokenizer's own folder is gone.
    """
    if folder.exists() and not replace:
        raise UsageError(f"export {folder}: exists already; give a new folder or remove it first")
    files = saved(tower.native) | tokenizer_files(tower)
    files[PREPROCESSOR] = fsio.json_bytes(preprocessor_config(tower))
    files[CARD] = card.encode()
    return write_folder(folder, files, replace)


def saved(native: Any) -> dict[str, bytes]:
    """The files that save_pretrained writes, by name: it maps names of tensors back and drops tied ones."""
    with tempfile.TemporaryDirectory(prefix="cmapkd-save-") as place, quiet():
        native.save_pretrained(place)
        return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}


def tokenizer_files(tower: DualEncoder) -> dict[str, bytes]:
    """The files of the tokenizer's folder."""
    folder = tower.tokenizer.folder
    files = {name: folder / name for name in TOKENIZER if (folder / name).is_file()} if folder is not None else {}
    if not files:
        raise UsageError(f"export {tower.name}: its tokenizer's files in {folder} are gone; put them back")
    return {name: path.read_bytes() for name, path in files.items()}


def preprocessor_config(tower: DualEncoder) -> dict[str, Any]:
    """The preprocessor_config.json of the model's own folder, or one of a plain ViT processor where it had none."""
    if own := tower.package.config["preprocessor"]:
        return own
    return {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "resample": 3,
        "size": {"height": tower.size, "width": tower.size}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(tower.image.mean), "image_std": list(tower.image.std),
    }  # fmt: skip
