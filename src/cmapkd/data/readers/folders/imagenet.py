"""The ImageNet validation set as distributed: one flat folder, and the classes in one of four kinds of file."""

from __future__ import annotations

import re
from pathlib import Path

from cmapkd.core.errors import DataError
from cmapkd.data.readers.folders.class_names import MAPS, WNID, above, wnid_words
from cmapkd.data.readers.text import read_text

FLAT = re.compile(r"^ILSVRC2012_val_(\d{8})\.JPEG$", re.IGNORECASE)
KAGGLE, DEVKIT = "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt"
SYNSETS, CAFFE = "imagenet_2012_validation_synset_labels.txt", "val.txt"
NUMBERED = re.compile(r"^(n\d{8})\s+(\d+)\s+\S")  # map_clsloc.txt: wnid, the devkit's number, name


def is_flat(root: Path) -> bool:
    return any(FLAT.match(p.name) for p in root.iterdir())


def flat_validation(root: Path) -> tuple[list[tuple[str, Path, int]], tuple[str, ...]]:
    """((name, file, label) of every image, the WordNet ids of the classes in order). Raises DataError without labels."""
    files = {int(match[1]): p for p in sorted(root.iterdir()) if (match := FLAT.match(p.name))}
    truth, source = _truth(root, max(files))
    wnids = {wnid for wnid in truth.values() if WNID.match(wnid)}
    keys = tuple(sorted(_all_wnids(root) or wnids))
    label = {key: number for number, key in enumerate(keys)}
    if len(wnids) < len(set(truth.values())):  # Caffe's numbers: indices into the sorted list of wnids
        label = {str(number): number for number in range(len(keys))}
    found = []
    for number, path in files.items():
        named = truth.get(number)
        if named is None:
            raise DataError(f"{source}: has no class for {path.name}; give the ground truth of these images")
        if named not in label:
            raise DataError(f"{source}: class {named} of {path.name} is none of the {len(keys)} classes known here")
        found.append((path.name, path, label[named]))
    return found, keys


def _truth(root: Path, last: int) -> tuple[dict[int, str], Path]:
    """(WordNet id, or Caffe's number as text, by image number; the file they come from)."""
    for place in [p for base in above(root) for p in (base, base / "data", base / "ILSVRC2012_devkit_t12" / "data")]:
        for name, read in ((KAGGLE, _named), (SYNSETS, _in_order), (CAFFE, _named), (DEVKIT, _devkit)):
            if (place / name).is_file():
                return read(place / name), place / name
    raise DataError(
        f"{root}: {last} validation images without classes; put one of {KAGGLE}, {SYNSETS}, {CAFFE}, {DEVKIT} beside "
        "or above it, or sort the images into a folder per wnid"
    )


def _named(path: Path) -> dict[int, str]:
    """Rows `ILSVRC2012_val_00000001,n01751748 …` or `ILSVRC2012_val_00000001.JPEG 65`, in any order."""
    found = {}
    for line in read_text(path).splitlines():
        if match := re.match(r"^(?:.*/)?ILSVRC2012_val_(\d{8})(?:\.JPEG)?[,\s]+(n\d{8}|\d+)\b", line, re.IGNORECASE):
            found[int(match[1])] = match[2]
    if not found:
        raise DataError(f"{path}: no row reads `ILSVRC2012_val_00000001,wnid` or `ILSVRC2012_val_00000001.JPEG label`")
    return found


def _in_order(path: Path) -> dict[int, str]:
    return dict(enumerate(read_text(path).split(), start=1))


def _devkit(path: Path) -> dict[int, str]:
    """The class numbers of the devkit, 1 to 1000 in its own order, converted to WordNet ids by map_clsloc.txt."""
    for place in above(path.parent):
        if (place / "map_clsloc.txt").is_file():
            rows = [NUMBERED.match(line) for line in read_text(place / "map_clsloc.txt").splitlines()]
            wnid = {row[2]: row[1] for row in rows if row}
            if unknown := set(read_text(path).split()) - wnid.keys():
                raise DataError(f"{place / 'map_clsloc.txt'}: has no number {min(unknown)}, which {path} uses")
            return dict(enumerate((wnid[number] for number in read_text(path).split()), start=1))
    raise DataError(
        f"{path}: its numbers are not in the order of wnids and say nothing without map_clsloc.txt "
        f"(`n02119789 1 kit_fox`); put it beside, or use {KAGGLE} or {SYNSETS}"
    )


def _all_wnids(root: Path) -> set[str]:
    """All classes of the data set, from the train folder or a mapping, so that labels agree with the train split."""
    train = root.parent / "train"
    folders = {p.name for p in train.iterdir() if p.is_dir() and WNID.match(p.name)} if train.is_dir() else set()
    mapped = any((place / name).is_file() for place in above(root) for name in MAPS)
    return folders or (set(wnid_words(root)) if mapped else set())
