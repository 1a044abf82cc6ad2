"""Readers of all data formats; `open_samples`, `open_questions` and `open_boxes` pick the reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.boxes import Boxes
from cmapkd.data.index.opening import Reading, open_indexed
from cmapkd.data.questions import Questions
from cmapkd.data.readers.builtin import read_scene_boxes, read_scene_questions, read_scenes
from cmapkd.data.readers.coco import read_coco
from cmapkd.data.readers.files_read import files_read
from cmapkd.data.readers.flickr import read_flickr
from cmapkd.data.readers.folders.folder import read_folder
from cmapkd.data.readers.hf.reader import read_hf
from cmapkd.data.readers.instances import read_instances
from cmapkd.data.readers.karpathy import read_karpathy
from cmapkd.data.readers.sniff import sniff
from cmapkd.data.readers.split_files import choose
from cmapkd.data.readers.table import read_table
from cmapkd.data.readers.tar.webdataset import read_webdataset
from cmapkd.data.readers.text import neighbours
from cmapkd.data.readers.visual_genome import read_visual_genome
from cmapkd.data.readers.vqa import questions_path, read_vqa
from cmapkd.data.remote.reader import read_remote
from cmapkd.data.remote.urls import is_remote
from cmapkd.data.samples import Samples

READERS: dict[str, Callable[[Path, DataConfig, str | None], Samples]] = {
    "coco": read_coco,
    "karpathy": read_karpathy,
    "flickr": read_flickr,
    "csv": read_table,
    "folder": read_folder,
    "webdataset": read_webdataset,
    "visual_genome": read_visual_genome,
    "hf": read_hf,
}
OTHERS = {"vqa": "VQA questions", "instances": "instances"}  # formats that `sniff` knows, without captions


def open_samples(location: str, data: DataConfig, split: str | None = None) -> Samples:
    """The samples at a path, a pattern of shards or `scenes:N`; the format is detected unless `data.format` names it.

    Raises DataError or UsageError, in one line, for a wrong path, column or split.
    """
    if location.startswith("scenes:") or data.format == "scenes":
        return read_scenes(location, data, split)
    if is_remote(location):
        return read_remote(location, data, split)
    return open_indexed(reading(location, data, split))


def reading(location: str, data: DataConfig, split: str | None = None) -> Reading:
    """The Reading of a path: its format, its files and the function that reads its samples."""
    path = Path(location).expanduser()

    def detect() -> tuple[str, Path]:
        kind, found = sniff(path) if data.format == "auto" or not path.exists() else (data.format, path)
        if kind in OTHERS:
            raise DataError(f"{path}: holds {OTHERS[kind]}, not captions; give a captions file{neighbours(path)}")
        return kind, choose(found, kind, split) if kind == "coco" and found.is_dir() else found

    def listing(kind: str, found: Path) -> list[Path]:
        return files_read(kind, found, data, split)

    def read(kind: str, found: Path) -> Samples:
        return READERS[kind](found, data, split)

    return Reading(path, data, split, detect, listing, read)


def open_questions(
    location: str, data: DataConfig, split: str | None = None, answered: bool = True, pictures: bool = True
) -> Questions:
    """Questions of a VQA v2 file or folder or of `scenes:N`; answered: with answers, pictures: with images.

    Raises DataError or UsageError in one line.
    """
    if location.startswith("scenes:"):
        return read_scene_questions(location, data, split, answered)
    path = _annotation_file(location, "vqa", split)
    return read_vqa(questions_path(path) or path, data, split, answered, pictures)


def open_boxes(location: str, data: DataConfig, split: str | None = None, pictures: bool = True) -> Boxes:
    """Boxes of a COCO instances file or folder or of `scenes:N`; pictures: with images.

    Raises DataError or UsageError in one line.
    """
    if location.startswith("scenes:"):
        return read_scene_boxes(location, data, split)
    return read_instances(_annotation_file(location, "instances", split), data, split, pictures)


def _annotation_file(location: str, kind: str, split: str | None) -> Path:
    path = Path(location).expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path{neighbours(path)}")
    return choose(path, kind, split) if path.is_dir() else path
