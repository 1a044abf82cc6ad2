"""Folders with one annotation file per split, as in COCO and VQA v2: captions_*, instances_*, *questions*."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from cmapkd.core.errors import DataError, UsageError

NAMES = {
    "coco": re.compile(r"^captions_.*\.json(\.gz)?$"),
    "instances": re.compile(r"^instances_.*\.json(\.gz)?$"),
    "vqa": re.compile(r"^.*questions.*\.json(\.gz)?$"),
}
SPLIT = re.compile(r"(?:^|[^a-z])(train|validation|valid|val|test-dev|test|dev)(\d{4})?(?![a-z])")
DROP = "or drop the split (--split, --train-split, --val-split; data.train_split=null, data.val_split=null over a recipe's)"
ALIKE = {
    name: (name, *(other for other in ("val", "valid", "validation", "dev") if other != name))
    for name in ("val", "valid", "validation", "dev")
}


def split_files(folder: Path, kind: str) -> dict[str, Path]:
    """The files of a kind in a folder or its annotations/, by split; names include the year where a split has several."""
    for place in (folder, folder / "annotations"):
        files = sorted(p for p in place.glob("*.json*") if NAMES[kind].match(p.name)) if place.is_dir() else []
        if files:
            found = [(SPLIT.search(file.name), file) for file in files]
            words = Counter(match[1] for match, _ in found if match)
            return {
                (match[1] if words[match[1]] == 1 else match[1] + (match[2] or "")) if match else file.stem: file
                for match, file in found
            }
    return {}


def choose(folder: Path, kind: str, split: str | None) -> Path:
    """The file of a split. Raises UsageError naming the splits when the split is missing or ambiguous."""
    files = split_files(folder, kind)
    if not files:
        raise DataError(f"{folder}: is a folder without {kind} files of a known name; give the file itself")
    if split is None and len(files) == 1:
        return next(iter(files.values()))
    wanted = next((name for name in ALIKE.get(split or "", (split,)) if name in files), None)
    if wanted is not None:
        return files[wanted]
    held = ", ".join(f"{name} ({file.name})" for name, file in files.items())
    if split is None:
        raise UsageError(
            f"{folder}: holds {held}; give one of these files, or a split (--split; data.train_split, data.val_split)"
        )
    raise UsageError(f"{folder}: has no split '{split}'; it holds {held}")


def refuse_split(path: Path, split: str | None) -> None:
    """Raise UsageError for a split of data with a single split, unless the file is named after that split."""
    match = SPLIT.search(path.name)
    named = {path.name, path.stem, *((match[1], match[1] + (match[2] or "")) if match else ())}
    if split not in (None, "all") and not named & set(ALIKE.get(split, (split,))):
        holds = f"is split '{match[1]}' by its name" if match else "holds one split, without a name"
        raise UsageError(f"{path}: {holds}, but split '{split}' is asked for; give the data of that split, {DROP}")
