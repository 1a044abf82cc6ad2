"""Karpathy JSON (dataset_coco, dataset_flickr30k …): all splits in one file; train includes restval."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.gathering import gather
from cmapkd.data.readers.image_paths import locate
from cmapkd.data.readers.text import field, listing, read_json
from cmapkd.data.samples import Samples

MEMBERS = {"train": {"train", "restval"}, "dev": {"val"}}


def read_karpathy(path: Path, data: DataConfig, split: str | None) -> Samples:
    """The images of one split, or of every split for `all`. Raises UsageError for a missing or unknown split."""
    images = listing(read_json(path), "images", path)
    counts = Counter(str(image.get("split", "all")) for image in images)
    wanted = _wanted(path, counts, split)
    rows: dict[str, tuple[str, list[str]]] = {}
    for image in images:
        if str(image.get("split", "all")) not in wanted:
            continue
        name = str(field(image, "filename", f"{path}: images"))
        if name in rows:
            raise DataError(f"{path}: {name!r} is listed twice; file names must be unique, remove one of the entries")
        place = f"{image['filepath']}/{name}" if image.get("filepath") else name
        rows[name] = place, [str(sentence.get("raw") or "") for sentence in listing(image, "sentences", path)]
    paths = locate(path, data.images, [place for place, _ in rows.values()])
    return gather(f"{path.name} [{split or 'all'}]", {n: (p, rows[n][1]) for n, p in zip(rows, paths, strict=True)})


def _wanted(path: Path, counts: Counter[str], split: str | None) -> set[str]:
    shown = ", ".join(f"{name} ({count})" for name, count in counts.items())
    if split == "all" or (split is None and len(counts) == 1):
        return set(counts)
    if split is None:
        raise UsageError(f"{path}: holds the splits {shown}; name one with data.train_split or data.val_split")
    wanted = MEMBERS.get(split, {split}) & set(counts)
    if not wanted:
        raise UsageError(f"{path}: has no split '{split}'; it holds {shown}")
    return wanted
