"""Export of a run: the student as an open_clip folder with a model card, and further formats from that folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.export.card import model_card
from cmapkd.export.hugging_face import export_hugging_face
from cmapkd.export.onnx import export_onnx
from cmapkd.export.open_clip_folder import CARD, save_open_clip
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower

FORMATS = ("open_clip", "hf", "onnx")
METHOD_TENSORS = "method.safetensors"  # beside a student whose method also needs tensors of its own


def export_student(
    student: DualEncoder,
    folder: Path,
    facts: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    replace: bool = True,
) -> Path:
    """Write the student as an open_clip folder; an earlier export of the same run is replaced in one rename.

    facts: those of `model_card`; the number of parameters is added here.
    """
    params = sum(p.numel() for p in student.native.parameters())
    card = model_card({"name": f"{student.name} by {facts.get('method')}", "params": params, **facts})
    return save_open_clip(
        student.native,
        student.package.config,
        preprocess(student),
        student.tokenizer.folder,
        folder,
        card,
        dtype,
        replace,
    )


def export_run(run: Path, to: list[str], out: Path | None = None, dtype: str = "fp32") -> None:
    """Write the student of a finished run, or any open_clip folder, in the formats `to`, under `out` or RUN/export.

    Raises UsageError for a folder without a student or an unknown format.
    """
    folder = run / "student" if (run / "student").is_dir() else run
    if not (folder / "open_clip_config.json").is_file():
        raise UsageError(
            f"export {run}: no finished student here; train one with `cmapkd distill`, or give an open_clip folder"
        )
    unknown = [name for name in to if name not in FORMATS]
    if unknown:
        raise UsageError(f"export: format '{unknown[0]}' is unknown; known: {', '.join(FORMATS)}")
    target = out or run / "export"
    if (folder / METHOD_TENSORS).is_file():
        say(f"export {run}: writes the student alone; the run's scores also took {METHOD_TENSORS} and the teacher")
    tower = load_tower(TowerConfig(model=f"local-dir:{folder}"))
    mean, std = (tower.image.mean, tower.image.std)
    card = (folder / CARD).read_text() if (folder / CARD).is_file() else ""
    for name in to:
        if name == "hf":
            say(export_hugging_face(tower, target / name, card))
        elif name == "open_clip":
            kept = torch.float16 if dtype == "fp16" else torch.float32
            files = tower.tokenizer.folder
            save_open_clip(tower.native, tower.package.config, preprocess(tower), files, target / name, card, kept)
            say(f"open_clip folder: {target / name}")
        else:
            size, context, vocabulary = (
                tower.size,
                tower.tokenizer.context,
                tower.package.config["text_cfg"]["vocab_size"],
            )
            for graph in export_onnx(tower.native, mean, std, size, context, vocabulary, target / name):
                say(graph.line())


def preprocess(tower: DualEncoder) -> dict[str, Any]:
    """The preprocess_cfg of open_clip for a tower."""
    mean, std = (tower.image.mean, tower.image.std)
    return {
        "size": tower.size, "mode": "RGB", "mean": list(mean), "std": list(std), "interpolation": "bicubic",
        "resize_mode": "shortest",
    }  # fmt: skip
