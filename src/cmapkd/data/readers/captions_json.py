"""COCO captions JSON and Karpathy's dataset_*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cmapkd.core.errors import DataError
from cmapkd.data.readers.places import find_images
from cmapkd.data.samples import Samples, gather


def load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); is the download complete?") from None


def is_karpathy(whole: Any) -> bool:
    images = whole.get("images") if isinstance(whole, dict) else None
    return bool(images) and isinstance(images, list) and "sentences" in images[0]


def is_coco(whole: Any) -> bool:
    return isinstance(whole, dict) and isinstance(whole.get("images"), list) and isinstance(whole.get("annotations"), list)


def read_coco(path: Path, images: Path | None) -> Samples:
    """images[{id, file_name}], annotations[{image_id, caption}]; one entry an image that has captions."""
    whole = load_json(path)
    if not is_coco(whole):
        raise DataError(f"{path}: no COCO captions file: `images` and `annotations` lists are needed; see `cmapkd data inspect {path}`")
    captions: dict[Any, list[str]] = {}
    for row in whole["annotations"]:
        if "caption" not in row:
            raise DataError(f"{path}: annotation {row.get('id')} has no caption (keys: {', '.join(row)}); give the captions_*.json file")
        captions.setdefault(row["image_id"], []).append(str(row["caption"]))
    names = [row["file_name"] for row in whole["images"][:20]]
    folder = find_images(path, images, names)
    rows: dict[str, tuple[Path, list[str]]] = {}
    bare = 0
    for row in whole["images"]:
        if row["id"] not in captions:
            bare += 1
            continue
        if str(row["id"]) in rows:
            raise DataError(f"{path}: image id {row['id']} stands twice in `images`; ids must be unique")
        rows[str(row["id"])] = (folder / row["file_name"], captions[row["id"]])
    return gather(path.name, rows, [f"{bare} images without a caption left out"] if bare else [])


def read_karpathy(path: Path, images: Path | None, split: str | None) -> Samples:
    """images[{filename, filepath?, split, sentences[{raw}]}]; split train includes restval, as everyone trains on both."""
    whole = load_json(path)
    if not is_karpathy(whole):
        raise DataError(f"{path}: no Karpathy file: `images` with `sentences` are needed; see `cmapkd data inspect {path}`")
    splits = sorted({row.get("split", "") for row in whole["images"]})
    wanted = {"train", "restval"} if split == "train" else {split}
    if split is None or not wanted & set(splits):
        raise DataError(f"{path}: split is {split!r}, but the file has {', '.join(splits)}; set data.train_split and data.val_split")
    chosen = [row for row in whole["images"] if row.get("split") in wanted]
    names = [str(Path(row.get("filepath", "")) / row["filename"]) for row in chosen]
    folder = find_images(path, images, names[:20])
    rows: dict[str, tuple[Path, list[str]]] = {}
    for name, row in zip(names, chosen, strict=True):
        if row["filename"] in rows:
            raise DataError(f"{path}: image {row['filename']!r} stands twice; names must be unique")
        file = folder / name if (folder / name).is_file() else folder / row["filename"]
        rows[row["filename"]] = (file, [sentence["raw"] for sentence in row["sentences"]])
    return gather(f"{path.name}:{split}", rows)
