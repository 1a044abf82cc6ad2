"""Export of a run: the student as a folder of its library with a model card, and further formats from that folder."""

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
from cmapkd.export.open_clip_folder import CARD
from cmapkd.export.student_folder import card_facts, is_model_folder, save_student
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
    """Write the student as a folder of its library; an earlier export of the same run is replaced in one rename.

    facts: those of `model_card`; the number of parameters and the library are added here.
    """
    card = model_card({"name": f"{student.name} by {facts.get('method')}", **card_facts(student), **facts})
    return save_student(student, folder, card, dtype, replace)


def export_run(run: Path, to: list[str], out: Path | None = None, dtype: str = "fp32") -> None:
    """Write the student of a finished run, or any model's folder, in the formats `to`, under `out` or RUN/export.

    Raises UsageError for a folder without a student or an unknown format.
    """
    folder = run / "student" if (run / "student").is_dir() else run
    if not is_model_folder(folder):
        raise UsageError(
            f"export {run}: no finished student here; train one with `cmapkd distill`, or give a model's folder"
        )
    unknown = [name for name in to if name not in FORMATS]
    if unknown:
        raise UsageError(f"export: format '{unknown[0]}' is unknown; known: {', '.join(FORMATS)}")
    target = out or run / "export"
    if (folder / METHOD_TENSORS).is_file():
        say(f"export {run}: writes the student alone; the run's scores also took {METHOD_TENSORS} and the teacher")
    tower = load_tower(TowerConfig(model=f"local-dir:{folder}"))
    card = (folder / CARD).read_text() if (folder / CARD).is_file() else ""
    if refused := [name for name in to if name == "open_clip" and tower.package.library != "open_clip"]:
        raise UsageError(
            f"export --to {refused[0]}: {run} is a {tower.package.config.get('class', 'model')} of {tower.package.library}, for "
            "which open_clip has no class of the same weights; export --to hf or onnx"
        )
    for name in to:
        if name == "onnx":
            for graph in export_onnx(tower, target / name):
                say(graph.line())
        elif name == "hf" and tower.package.library == "open_clip":
            say(export_hugging_face(tower, target / name, card))
        else:
            kept = torch.float16 if dtype == "fp16" else torch.float32
            say(f"{name} folder: {save_student(tower, target / name, card, kept)}")
