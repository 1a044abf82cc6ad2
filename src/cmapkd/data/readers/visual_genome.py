"""Visual Genome: region_descriptions.json, and image_data.json if it is beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.gathering import gather
from cmapkd.data.readers.image_paths import locate
from cmapkd.data.readers.split_files import refuse_split
from cmapkd.data.readers.text import listing, number, read_json, whole
from cmapkd.data.samples import Samples
from cmapkd.data.stored import Region

IDS = ("image_id", "id")
SIDES = ("x", "y", "width", "height")


def read_visual_genome(path: Path, data: DataConfig, split: str | None = None) -> Samples:
    """One sample per image with all its phrases; with data.regions one sample per region, cropped to its box."""
    refuse_split(path, split)
    images = read_json(path)
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise DataError(
            f"{path}: must be a list of images with `regions`; give Visual Genome's region_descriptions.json"
        )
    phrases: dict[int, list[dict[str, Any]]] = {}
    for image in images:
        regions = listing(image, "regions", path)
        named = next((row for row in (image, *regions[:1]) if row.keys() & set(IDS)), None)
        if named is None:
            raise DataError(f"{path}: an image has neither `id` nor `image_id`; is it region_descriptions.json?")
        key = whole(named, next(name for name in IDS if name in named), str(path))
        if key in phrases:
            raise DataError(f"{path}: image {key} occurs twice; ids must be unique, remove one of the entries")
        phrases[key] = regions
    known, notes = _image_data(path)
    paths = dict(zip(phrases, locate(path, data.images, [f"{key}.jpg" for key in phrases]), strict=True))
    if not data.regions:
        entire = {str(k): (paths[k], [str(r.get("phrase") or "") for r in found]) for k, found in phrases.items()}
        return gather(path.name, entire, notes)
    rows: dict[str, tuple[Region, list[str]]] = {}
    flat = 0
    for key, regions in phrases.items():
        for region in regions:
            box = tuple(number(region, side, f"{path}: a region of image {key}") for side in SIDES)
            if min(box[2:]) < 1:
                flat += 1
                continue
            rows[f"{key}/{region.get('region_id', len(rows))}"] = (
                Region(paths[key], (box[0], box[1], box[2], box[3]), known.get(key)),
                [str(region.get("phrase") or "")],
            )
    notes += [f"{flat} regions without width or height dropped"] if flat else []
    return gather(f"{path.name} [regions]", rows, notes)


def _image_data(path: Path) -> tuple[dict[int, tuple[int, int]], list[str]]:
    """(original sizes by image id, a note on the images shared with COCO), from image_data.json."""
    beside = path.with_name("image_data.json")
    if not beside.is_file():
        return {}, [
            "no image_data.json beside it: images that are COCO's too are not known, boxes are in files' pixels"
        ]
    rows = read_json(beside)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{beside}: must be a list of images with `image_id`, `width` and `height`")
    sizes = {}
    for row in rows:
        if row.get("width") and row.get("height"):
            key = whole(row, next((name for name in IDS if name in row), "image_id"), str(beside))
            sizes[key] = whole(row, "width", str(beside)), whole(row, "height", str(beside))
    shared = sum(row.get("coco_id") is not None for row in rows)
    note = f"{shared} of {len(rows)} images are COCO's too (coco_id): a model trained on them has seen some of COCO val"
    return sizes, [note] if shared else []
