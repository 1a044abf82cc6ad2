"""COCO captions JSON: `images` with id and file_name, `annotations` with image_id and caption."""

from __future__ import annotations

from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.gathering import gather
from cmapkd.data.readers.image_paths import locate
from cmapkd.data.readers.split_files import refuse_split
from cmapkd.data.readers.text import field, identity, listing, read_json
from cmapkd.data.samples import Samples


def read_coco(path: Path, data: DataConfig, split: str | None = None) -> Samples:
    """One sample per image with captions. Raises DataError for repeated ids or a file of another kind."""
    refuse_split(path, split)
    content = read_json(path)
    images, annotations = listing(content, "images", path), listing(content, "annotations", path)
    names: dict[object, str] = {}
    for image in images:
        key = identity(image, "id", f"{path}: images")
        if key in names:
            raise DataError(f"{path}: image id {key} occurs twice; ids must be unique, remove one of the entries")
        names[key] = str(field(image, "file_name", f"{path}: images"))
    captions: dict[object, list[str]] = {key: [] for key in names}
    orphans = 0
    for annotation in annotations:
        if "caption" not in annotation and ("bbox" in annotation or "multiple_choice_answer" in annotation):
            kind = "instances" if "bbox" in annotation else "VQA annotations"
            raise DataError(f"{path}: holds {kind}, not captions; give the captions_*.json of the same split")
        caption = field(annotation, "caption", f"{path}: annotations")
        key = identity(annotation, "image_id", f"{path}: annotations")
        if key in captions:
            captions[key].append(str(caption or ""))
        else:
            orphans += 1
    if orphans and orphans == len(annotations) and names:
        raise DataError(
            f"{path}: none of its {orphans} captions is of a listed image (first image_id "
            f"{annotations[0]['image_id']!r}, first image id {next(iter(names))!r}); the two must be the same ids"
        )
    notes = [f"{orphans} captions of images that are not listed dropped"] if orphans else []
    paths = locate(path, data.images, list(names.values()))
    rows = {str(key): (where, captions[key]) for key, where in zip(names, paths, strict=True)}
    return gather(path.name, rows, notes)
