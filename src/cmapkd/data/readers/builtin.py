"""The built-in world, `scenes:N[:WORLD]` and `scenes:objects:N[:WORLD]`: rendered once, then read like other data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from msgspec import structs

from cmapkd.config.schema import DataConfig
from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.data.boxes import Boxes
from cmapkd.data.questions import Questions
from cmapkd.data.readers.coco import read_coco
from cmapkd.data.readers.folders.folder import read_folder
from cmapkd.data.readers.instances import read_instances
from cmapkd.data.readers.split_files import ALIKE, DROP
from cmapkd.data.readers.vqa import read_vqa
from cmapkd.data.samples import Samples
from cmapkd.data.scenes.dataset import LAYOUT, SPLITS, world_seed, write_scenes, write_single_objects

LOUD = "SYNTHETIC: rendered scenes of the built-in world, not photographs"


def read_scenes(location: str, data: DataConfig, split: str | None) -> Samples:
    """N scenes with captions, or N single objects per class with labels, of the train, val or test world or of a seed."""
    folder, single = scenes_folder(location, data, split)
    plain = structs.replace(data, images=None, classes=None)
    samples = read_folder(folder, plain, None) if single else read_coco(folder / "captions.json", plain)
    return replace(samples, name=location, notes=(LOUD, *samples.notes))


def read_scene_questions(location: str, data: DataConfig, split: str | None, answered: bool = True) -> Questions:
    """Three questions per scene, one of each answer type."""
    folder = _scenes(location, data, split, "questions")
    found = read_vqa(folder / "vqa_questions.json", structs.replace(data, images=None), None, answered)
    return replace(found, name=location, notes=(LOUD, *found.notes))


def read_scene_boxes(location: str, data: DataConfig, split: str | None) -> Boxes:
    """The objects of every scene as boxes; each shape is a category."""
    folder = _scenes(location, data, split, "boxes")
    found = read_instances(folder / "instances.json", structs.replace(data, images=None))
    return replace(found, name=location, notes=(LOUD, *found.notes))


def _scenes(location: str, data: DataConfig, split: str | None, what: str) -> Path:
    folder, single = scenes_folder(location, data, split)
    if single:
        raise UsageError(f"data: '{location}' holds single objects, which have no {what}; give scenes:N[:WORLD]")
    return folder


def scenes_folder(location: str, data: DataConfig, split: str | None) -> tuple[Path, bool]:
    """(folder of the world, whether it holds single objects); the world is rendered at first use."""
    n, world, single = parse_location(location, data, split)
    root = Path(os.environ.get("CMAPKD_DATA") or "data")
    folder = root / f"scenes-v{LAYOUT}-{'objects-' if single else ''}{world}-{n}"
    try:
        if not folder.is_dir():
            (write_single_objects if single else write_scenes)(folder, n, world_seed(world))
    except OSError as error:
        raise fsio.disk_error(folder, error) from None
    return folder, single


def parse_location(location: str, data: DataConfig, split: str | None) -> tuple[int, str, bool]:
    """(N, world, whether single objects). Without a world or a split, data.val means val and everything else train."""
    parts = location.split(":")[1:]
    single = parts[:1] == ["objects"]
    parts = parts[1:] if single else parts
    asked = next((name for name in ALIKE.get(split or "", (split,)) if name in SPLITS), None)
    bare = len(parts) == 1
    if bare:
        held_out = location == data.val and location != data.train
        parts = [parts[0], asked or ("val" if held_out else "train")]
    if (
        len(parts) != 2
        or not parts[0].isdecimal()
        or int(parts[0]) < 1
        or not (parts[1] in SPLITS or parts[1].isdecimal())
    ):
        raise UsageError(
            f"data: '{location}' is not scenes:N[:WORLD] or scenes:objects:N[:WORLD] with a whole number N "
            f"and WORLD one of {', '.join(SPLITS)} or a seed"
        )
    if split not in (None, "all", parts[1]) and asked != parts[1]:
        holds = f"has the splits {', '.join(SPLITS)}" if bare else f"is of the world '{parts[1]}'"
        raise UsageError(f"data: '{location}' {holds}, but split '{split}' is asked for; give another one, {DROP}")
    return int(parts[0]), parts[1], single
