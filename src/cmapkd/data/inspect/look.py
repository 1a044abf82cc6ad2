"""The report of `cmapkd data inspect PATH` on a captions file or folder, with the config block that reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cmapkd.config.schema import DataConfig
from cmapkd.config.tree import read
from cmapkd.core.errors import UsageError
from cmapkd.data.duplicates import distinct_captions
from cmapkd.data.inspect.blocks import Found, blocks
from cmapkd.data.inspect.others import box_facts, lost, question_facts, repeated_images, spread
from cmapkd.data.readers import OTHERS, open_samples
from cmapkd.data.readers.folders.folder import SPLITS
from cmapkd.data.readers.hf.reader import split_files as hf_split_files
from cmapkd.data.readers.sniff import first_line, sniff
from cmapkd.data.readers.split_files import split_files
from cmapkd.data.readers.table import columns, guess_keys, guess_separator
from cmapkd.data.readers.tar import webdataset
from cmapkd.data.readers.text import read_json, read_text
from cmapkd.data.readers.vqa import annotations_path
from cmapkd.data.remote.urls import is_remote
from cmapkd.data.samples import Samples

SHOWN = 3
UNKNOWN = "FOLDER-OF-THE-IMAGES"  # placeholder in a printed block


def inspect(path: str, images: Path | None = None) -> str:
    """The report as plain text. images: the folder that image names are relative to, if it is not found automatically.

    Raises DataError or UsageError for data that cannot be read at all.
    """
    found = look(path, images)
    lines = [path, f"format: {found.kind}" + (f" (read from {found.path})" if str(found.path) != path else "")]
    if not found.splits:
        lines.append("splits: one, without a name")
    else:
        shown = (f"{name} ({count})" if count else name for name, count in found.splits.items())
        lines.append("splits: " + ", ".join(shown) + ("; train = train + restval" if "restval" in found.splits else ""))
        lines.append(f"below: split {found.first}")
    place = (
        split_files(found.path, found.kind)[found.first or ""]
        if found.kind in OTHERS and found.path.is_dir()
        else found.path
    )
    if found.kind == "vqa":
        facts, placed = question_facts(place, images)
        lines += facts
        found = found if placed else replace(found, images=Path(UNKNOWN))
    elif found.kind == "instances":
        lines += box_facts(place, images)
    else:
        lines += _samples(found)
    return "\n".join([*lines, *also(found), *blocks(found)])


def look(path: str, images: Path | None = None) -> Found:
    """The format, location, keys and splits of the data at a path."""
    if path.startswith("scenes:"):
        return Found("scenes", Path(path))
    if is_remote(path):
        raise UsageError(f"{path}: only local data is inspected; download one shard and inspect that")
    kind, found = sniff(Path(path).expanduser())
    beside = (_plain(other, found, images) for other in OTHERS if kind == "coco" and found.is_dir())
    others = tuple(other for other in beside if other.splits)
    return replace(_plain(kind, found, images), extra=_keys(kind, found), beside=others)


def _plain(kind: str, path: Path, images: Path | None) -> Found:
    found = Found(kind, path, {}, splits_of(kind, path), images)
    if kind != "vqa":
        return found
    files = split_files(path, kind) if path.is_dir() else {"": path}
    return replace(found, bare=frozenset(name for name, file in files.items() if not annotations_path(file).is_file()))


def _keys(kind: str, path: Path) -> dict[str, str]:
    if kind != "csv":
        return {}
    plain = DataConfig(train=str(path))
    header = columns(first_line(path), guess_separator(first_line(path), plain))
    guesses = zip(("image_key", "text_key"), guess_keys(header), strict=True)
    return {key: guess for key, guess in guesses if guess and getattr(plain, key) not in header}


def splits_of(kind: str, path: Path) -> dict[str, int]:
    """The names of all splits, with image counts where the file states them, else 0."""
    if kind == "karpathy":
        return dict(Counter(str(image.get("split", "all")) for image in read_json(path)["images"]))
    if kind == "flickr":
        words = (("train", ("train",)), ("val", ("dev", "val")), ("test", ("test",)))
        patterns = {w: [f"*{n}Images.txt" for n in names] + [f"{n}.txt" for n in names] for w, names in words}
        lists = {w: [p for name in names for p in sorted(path.parent.glob(name))] for w, names in patterns.items()}
        return {word: len(set(read_text(found[0]).split())) for word, found in lists.items() if found}
    if kind == "folder":
        return {name: 0 for name in SPLITS if (path / name).is_dir()}
    names: list[str] = []
    if kind in ("coco", *OTHERS) and path.is_dir():
        names = list(split_files(path, kind))
    elif kind == "webdataset":
        names = webdataset.split_folders(path)
    elif kind == "hf":
        names = [name for name in hf_split_files(path) if name != "all"]
    return dict.fromkeys(names, 0)


def _samples(found: Found) -> Iterable[str]:
    """Facts of the first split, and its overlap with the held-out one. No number of unreadable images is an error here."""
    tree = {"train": str(found.path), "images": found.images, **found.extra}
    if found.kind == "webdataset":
        tree["bad_budget"] = 1.0
    data = read(DataConfig, tree, f"data {found.path}")
    samples = open_samples(str(found.path), data, found.first)
    yield from facts(samples)
    if found.held and found.kind not in ("webdataset", "hf", "folder"):  # formats that may list a file in both splits
        held = open_samples(str(found.path), data, found.held)
        ours, theirs = (np.fromiter(map(hash, part.paths), np.int64, len(part)) for part in (samples, held))
        yield f"images of {found.held} that {found.first} has too: {len(np.intersect1d(ours, theirs))} of {len(held)}"


def facts(samples: Samples) -> Iterable[str]:
    """Lines on counts, duplicates, dropped entries, and the first samples."""
    yield f"images: {len(samples)}"
    yield f"captions: {samples.n_captions}"
    yield f"captions per image: {spread(np.diff(samples.caption_offsets))}"
    if samples.classes is not None:
        yield f"classes: {len(samples.classes)} ({', '.join(samples.classes[:SHOWN])}, …)"
    else:
        yield f"duplicate captions: {samples.n_captions - distinct_captions(samples)}"
    yield from repeated_images(samples.paths)
    yield f"missing files: {lost(samples.notes)}"
    yield from (f"note: {note}" for note in samples.notes or ("nothing dropped",))
    yield f"fingerprint: {samples.fingerprint()[:12]}"
    yield "samples:"
    for name, captions in zip(samples.ids[:SHOWN], samples.captions[:SHOWN], strict=True):
        yield f"  {name}: {captions[0]}"


def also(found: Found) -> Iterable[str]:
    """Lines on files of other kinds in the same folder, which can be inspected too."""
    if found.kind == "scenes":
        yield from [] if "objects" in found.path.name else ["also here: three questions an image, and its boxes"]
        return
    folder = found.path if found.path.is_dir() else found.path.parent
    for kind, name in (("coco", "COCO captions"), ("instances", "boxes"), ("vqa", "questions")):
        files = [file for file in split_files(folder, kind).values() if file != found.path]
        if files and kind != found.kind:
            yield f"also here, {name}: {', '.join(str(file.relative_to(folder)) for file in files)}"
