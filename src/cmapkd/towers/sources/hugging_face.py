"""Models of Hugging Face folders (config.json with safetensors)."""

from __future__ import annotations

from pathlib import Path

from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.sources.hf_clip import from_hugging_face
from cmapkd.towers.sources.open_clip import adapted, build
from cmapkd.towers.sources.weights import load_strict
from cmapkd.towers.tokens.chosen import hugging_face_tokenizer


def folder_model(folder: Path, name: str, words: int) -> DualEncoder:
    """The model of a Hugging Face CLIP folder, as an open_clip model."""
    model_cfg, state, mean, std = from_hugging_face(folder)
    clip = build(model_cfg)
    load_strict(clip, state, folder, name)
    tokenizer = hugging_face_tokenizer(folder, model_cfg["text_cfg"]["context_length"])
    return adapted(clip, tokenizer, model_cfg, name, words, mean, std)
