"""WebDataset as written by img2dataset (CC3M, CC12M, LAION): tar shards of .jpg, .txt and .json, read by offset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.gathering import Gathering
from cmapkd.data.readers.split_files import refuse_split
from cmapkd.data.readers.tar.shards import Shard, expand, is_pattern, read_shard
from cmapkd.data.samples import Samples

SHOWN = 3


def read_webdataset(path: Path, data: DataConfig, split: str | None = None) -> Samples:
    """One sample per image, named `shard/key`, in the order of the shards; only headers and texts are read here.

    path: a tar, a folder of them, or a pattern such as `{00000..00331}.tar`; a folder may hold one folder per split.
    Raises DataError when missing or truncated shards lose more samples than data.bad_budget allows.
    """
    location = str(split_folder(path, split))
    files = expand(location)
    if not any(file.is_file() for file in files):
        first = f"; the first would be {files[0]}" if files else ""
        raise DataError(
            f"{location}: no such tar shard{first}; give a .tar, its folder or a pattern like {{00000..00010}}.tar"
        )
    title = path.name if len(files) == 1 else f"{path.name} [{len(files)} shards]"
    return samples_of_shards(title, location, map(read_shard, files), data)


def samples_of_shards(title: str, location: str, shards: Iterable[Shard], data: DataConfig) -> Samples:
    """The samples of shards that were read, within data.bad_budget."""
    gathering, images = Gathering(), 0
    broken: list[Shard] = []
    for shard in shards:
        broken += [replace(shard, pictures={}, texts={})] if shard.why else []
        images += len(shard.pictures)
        for key, picture in shard.pictures.items():
            texts = [shard.texts.get(key, "")] if key in shard.texts else []
            gathering.add(f"{shard.path.stem}/{key}", picture, texts, picture.length())
    return gathering.samples(title, _within_budget(location, broken, images, data))


def _within_budget(location: str, broken: list[Shard], found: int, data: DataConfig) -> list[str]:
    if not broken:
        return []
    lost = sum(shard.lost for shard in broken)
    shown = "; ".join(f"{shard.path.name} ({shard.why})" for shard in broken[:SHOWN])
    line = f"{len(broken)} shards missing or cut off, at least {lost} samples lost: {shown}"
    allowed = max(1, int(data.bad_budget * (found + lost)))
    if lost > allowed or not found:
        raise DataError(
            f"{location}: {line}; the budget is {allowed} (data.bad_budget {data.bad_budget:g}); "
            "fetch the shards again, or raise the budget"
        )
    return [line]


def split_folders(path: Path) -> list[str]:
    """The subfolders that hold shards; each is a split."""
    if is_pattern(str(path)) or not path.is_dir() or any(p.suffix == ".tar" for p in path.iterdir()):
        return []
    return sorted(p.name for p in path.iterdir() if p.is_dir() and any(f.suffix == ".tar" for f in p.iterdir()))


def split_folder(path: Path, split: str | None) -> Path:
    splits = split_folders(path)
    if not splits:
        refuse_split(path, split)
        return path
    if split is None and len(splits) == 1:
        return path / splits[0]
    if split not in splits:
        raise UsageError(
            f"{path}: holds the folders {', '.join(splits)}; "
            + ("name one with data.train_split or data.val_split" if split is None else f"there is no '{split}'")
        )
    return path / split
