"""Hugging Face data sets on disk: parquet files, `save_to_disk` folders, and image folders with metadata."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.gathering import Gathering, gather
from cmapkd.data.readers.folders.class_names import class_names, repeated
from cmapkd.data.readers.folders.folder import CAPTION
from cmapkd.data.readers.folders.metadata import METADATA, read_metadata
from cmapkd.data.readers.hf.columns import texts
from cmapkd.data.readers.hf.tables import Table, read_arrow, read_parquet
from cmapkd.data.readers.image_paths import locate
from cmapkd.data.readers.text import read_json
from cmapkd.data.samples import Samples
from cmapkd.data.stored import Picture

SHARD = re.compile(r"^(?P<split>[A-Za-z][\w.]*?)(?:-\d{4,}(?:-of-\d+)?.*)?$")
ALIKE = {"val": ("val", "validation", "dev"), "validation": ("validation", "val"), "dev": ("dev", "val", "validation")}
FOLDERS = ("", "data", "default", "train", "validation", "val", "test")


def read_hf(path: Path, data: DataConfig, split: str | None) -> Samples:
    """The samples of a split. Raises UsageError for an unknown split, or if pyarrow is needed and missing."""
    splits = split_files(path)
    if not splits:
        raise DataError(f"{path}: holds no parquet file, no save_to_disk data set and no metadata.jsonl or .csv")
    wanted = next((name for name in ALIKE.get(split or "", (split,)) if name in splits), None)
    if split is None and len(splits) == 1:
        wanted = next(iter(splits))
    if wanted is None and split != "all":
        held = ", ".join(splits)
        line = f"has no split '{split}'; it holds {held}" if split else f"holds the splits {held}; name one with data.train_split or data.val_split"  # fmt: skip
        raise UsageError(f"{path}: {line}")
    files = splits[wanted] if wanted else [file for held in splits.values() for file in held]
    name = f"{path.name} [{wanted or 'all'}]"
    if files[0].name in METADATA or files[0].suffix == ".jsonl":
        return replace(read_metadata(files[0], data), name=name)
    if _table(files[0], data).columns.text:
        return _captioned(name, files, data)
    return _samples(name, {file: _table(file, data) for file in files}, data)


def split_files(path: Path) -> dict[str, list[Path]]:
    """The files of each split, from dataset_dict.json or state.json, metadata files, or names of parquet files and folders."""
    if path.is_file():
        known = path.suffix in {".parquet", ".arrow", ".jsonl"} or path.name in METADATA
        return {_split_of(path): [path]} if known else {}
    if (path / "dataset_dict.json").is_file():
        return {name: _saved(path / name) for name in read_json(path / "dataset_dict.json").get("splits", [])}
    if (path / "state.json").is_file():
        return {"all": _saved(path)}
    found: dict[str, list[Path]] = {}
    for folder in FOLDERS:
        if described := next((path / folder / name for name in METADATA if (path / folder / name).is_file()), None):
            found[folder or "all"] = [described]
    if found:
        return found
    for file in sorted({file for folder in FOLDERS for place in (path / folder, *_inside(path / folder)) for file in place.glob("*.parquet")}):  # fmt: skip
        found.setdefault(_split_of(file), []).append(file)
    return found


def _inside(folder: Path) -> list[Path]:
    return [folder / name for name in FOLDERS[3:]]


def _split_of(file: Path) -> str:
    """`train-00000-of-00002.parquet` → train; `validation/0000.parquet` → validation; else all."""
    match = SHARD.match(file.stem)
    if match and match["split"] in FOLDERS + ("dev", "restval"):
        return match["split"]
    return file.parent.name if file.parent.name in FOLDERS[3:] else "all"


def _saved(folder: Path) -> list[Path]:
    """The arrow files of one split written by save_to_disk."""
    state = folder / "state.json"
    names = read_json(state).get("_data_files", []) if state.is_file() else []
    files = [folder / str(entry.get("filename")) for entry in names]
    if missing := [file.name for file in files if not file.is_file()] or ([] if files else ["state.json"]):
        raise DataError(
            f"{folder}: {len(missing)} of its files are missing (first: {missing[0]}); save the data set anew"
        )
    return files


def _table(file: Path, data: DataConfig) -> Table:
    return (read_arrow if file.suffix == ".arrow" else read_parquet)(file, data)


def _keys(files: Sequence[Path]) -> Callable[[Path, int], str]:
    """The id of a row; save_to_disk uses the same file names in every split."""
    alike = len({file.stem for file in files}) < len(files)
    return lambda file, row: f"{file.parent.name}/{file.stem}/{row}" if alike else f"{file.stem}/{row}"


def _pictures(file: Path, table: Table, data: DataConfig) -> Iterable[Picture]:
    return table.pictures or locate(file, data.images, [str(row[table.columns.image]) for row in table.rows])


def _captioned(name: str, files: Sequence[Path], data: DataConfig) -> Samples:
    """Samples with captions; one file is in memory at a time."""
    found, key, notes = Gathering(), _keys(files), ()
    for file in files:
        table = _table(file, data)
        text, notes = table.columns.text or "", notes or table.notes[:1]
        for number, (row, picture) in enumerate(zip(table.rows, _pictures(file, table, data), strict=True)):
            found.add(key(file, number), picture, texts(row.get(text)))
    return found.samples(name, notes)


def _samples(name: str, tables: Mapping[Path, Table], data: DataConfig) -> Samples:
    """Labelled samples."""
    rows: dict[str, tuple[Picture, list[str]]] = {}
    labels: dict[str, int] = {}
    classes, key_of = _classes(tables, data), _keys(list(tables))
    for file, table in tables.items():
        for number, (row, picture) in enumerate(zip(table.rows, _pictures(file, table, data), strict=True)):
            key, label = key_of(file, number), row[table.columns.label or ""]
            if label is not None and 0 <= label < len(classes):  # −1 or None in a test split without labels
                rows[key], labels[key] = (picture, [CAPTION.format(classes[label])]), label
            else:
                rows[key] = picture, []
    notes = [note for table in tables.values() for note in table.notes][:1]
    found = gather(name, rows, notes)
    chosen = tuple(labels[key] for key in found.ids)
    return replace(found, labels=chosen, classes=classes, notes=(*found.notes, *repeated(classes)))


def _classes(tables: Mapping[Path, Table], data: DataConfig) -> tuple[str, ...]:
    """Names of the labels, or their numbers as names."""
    file, first = next(iter(tables.items()))
    values = [row[first.columns.label or ""] for table in tables.values() for row in table.rows]
    count = max((value for value in values if value is not None), default=-1) + 1
    return class_names(file, first.columns.classes or tuple(str(n) for n in range(count)), data.classes)
