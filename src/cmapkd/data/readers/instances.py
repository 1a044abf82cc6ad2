"""COCO instances JSON: boxes, categories and the original sizes of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.boxes import Boxes, file_size
from cmapkd.data.images import Unreadable
from cmapkd.data.readers.image_paths import PROBES, locate
from cmapkd.data.readers.split_files import refuse_split
from cmapkd.data.readers.text import field, is_number, listing, number, read_json, whole
from cmapkd.data.samples import is_file

SQUASHED = 0.02  # relative difference of aspect ratios that rounding cannot explain


class Row(NamedTuple):
    """One validated annotation."""

    image: int
    category: int
    crowd: int
    area: float
    box: tuple[float, float, float, float]


def read_instances(path: Path, data: DataConfig, split: str | None = None, pictures: bool = True) -> Boxes:
    """The listed images that have a file, with their boxes; pictures: False lists all and looks for no files.

    Raises DataError for invalid boxes or ids.
    """
    refuse_split(path, split)
    content = read_json(path)
    annotations = listing(content, "annotations", path)
    if annotations and "bbox" not in annotations[0]:
        kind = "captions" if "caption" in annotations[0] else "no boxes"
        raise DataError(f"{path}: holds {kind}; give the instances_*.json of the same split")
    categories = _categories(content, path)
    images = {whole(image, "id", f"{path}: images"): image for image in listing(content, "images", path)}
    if len(images) < len(content["images"]):
        raise DataError(f"{path}: an image id occurs twice; ids must be unique, remove one of the entries")
    rows: dict[int, list[Row]] = {key: [] for key in images}
    checked = [_row(annotation, categories, path) for annotation in annotations]
    for row in checked:
        rows.get(row.image, []).append(row)
    orphans = sum(row.image not in rows for row in checked)
    if orphans and orphans == len(checked):
        raise DataError(
            f"{path}: none of its {orphans} boxes is of a listed image (first image_id {checked[0].image}, "
            f"first image id {next(iter(images), None)}); the two must be the same ids"
        )
    notes = [f"{orphans} boxes of images that are not listed dropped"] if orphans else []
    places, lost = _places(images, path, data) if pictures else ({}, [])
    kept = [key for key in images if key in places or not pictures]
    if not kept:
        raise DataError(f"{path}: none of its {len(images)} images has a file; check data.images")
    notes += lost
    if bare := sum(not rows[key] for key in kept):
        notes.append(f"{bare} images without a box kept: what is found in them counts as wrong")
    sizes = [_size(images[key], places.get(key), path) for key in kept]
    notes += _resized(list(places.values()), sizes)
    return Boxes(
        path.name, tuple(kept), tuple(places.values()), tuple(sizes),
        tuple(np.array([row.box for row in rows[key]], np.float64).reshape(-1, 4) for key in kept),
        tuple(np.array([row.category for row in rows[key]], np.int64) for key in kept),
        tuple(np.array([row.crowd for row in rows[key]], np.int64) for key in kept),
        tuple(np.array([row.area for row in rows[key]], np.float64) for key in kept),
        categories, tuple(notes),
    )  # fmt: skip


def _places(images: dict[int, dict[str, Any]], path: Path, data: DataConfig) -> tuple[dict[int, Path], list[str]]:
    """(file by image id, for the images that have one; a note on the others)."""
    names = {key: str(field(image, "file_name", f"{path}: images")) for key, image in images.items()}
    located = zip(names, locate(path, data.images, list(names.values())), strict=True)
    places = {key: place for key, place in located if is_file(place)}
    missing = [name for key, name in names.items() if key not in places]
    return places, [f"{len(missing)} names without a file dropped (first: {missing[0]!r})"] if missing else []


def _categories(content: Any, path: Path) -> dict[int, str]:
    found = listing(content, "categories", path)
    if not found:
        raise DataError(f"{path}: `categories` is empty; give an instances_*.json")
    return {whole(c, "id", f"{path}: categories"): str(c.get("name", c["id"])) for c in found}


def _row(annotation: dict[str, Any], categories: dict[int, str], path: Path) -> Row:
    where = f"{path}: annotation {annotation.get('id', '?')}"
    category = whole(annotation, "category_id", where)
    if category not in categories:
        raise DataError(
            f"{where}: category_id {category} is not among the {len(categories)} categories of the file "
            f"(ids {min(categories)} to {max(categories)}); correct the entry or add the category"
        )
    box = field(annotation, "bbox", where)
    if not _four(box) or min(box[2:]) < 0:
        raise DataError(
            f"{where}: bbox is {str(box):.60}, but must be [left, top, width, height] with width, height ≥ 0"
        )
    area = number(annotation, "area", where) if "area" in annotation else float(box[2] * box[3])
    crowd = whole(annotation, "iscrowd", where) if "iscrowd" in annotation else 0
    return Row(whole(annotation, "image_id", where), category, crowd, area, (box[0], box[1], box[2], box[3]))


def _four(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(is_number(v) for v in box)


def _size(image: dict[str, Any], place: Path | None, path: Path) -> tuple[int, int]:
    """(width, height) of the original image, from the JSON or else from the file; (0, 0) if neither is available."""
    if image.get("width") and image.get("height"):
        return whole(image, "width", f"{path}: images"), whole(image, "height", f"{path}: images")
    if place is None:
        return 0, 0
    try:
        return file_size(place)
    except Unreadable as error:
        raise DataError(f"{path}: image {image['id']} has no width and height, and {error}; add them") from None


def _resized(places: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Notes on a sample of files whose size differs from the JSON's."""
    if not places:
        return []
    other, squashed, shown = 0, 0, ""
    step = max(1, len(places) // PROBES)
    probed = list(zip(places, sizes, strict=True))[::step]
    for place, (width, height) in probed:
        try:
            w, h = file_size(place)
        except Unreadable:
            continue
        if (w, h) != (width, height):
            other += 1
            squashed += abs(w * height / (h * width) - 1) > SQUASHED
            shown = shown or f"{place.name}: {width}×{height} → {w}×{h}"
    notes = [f"resized files, boxes are scaled to them ({other} of {len(probed)} probed; {shown})"] if other else []
    return [*notes, f"{squashed} of {len(probed)} probed files have another shape than the original: squashed, or cropped, in which case the boxes are wrong"] if squashed else notes  # fmt: skip
