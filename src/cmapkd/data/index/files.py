"""The files of an index: one npy file an array, and a manifest with its own checksum; nothing is unpickled."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError
from cmapkd.data.columns.column import Column, Numbers
from cmapkd.data.columns.file_array import FileArray, open_array
from cmapkd.data.columns.pictures import Pictures
from cmapkd.data.columns.texts import Blobs, Captions, Texts
from cmapkd.data.index.stamps import Stamp, stamps
from cmapkd.data.samples import Known, Samples

VERSION = 1
MANIFEST = "index.json"
STALE, TORN = "index of older data: built anew", "index is incomplete or damaged: built anew"
Array = np.ndarray | FileArray
PART = 2**24  # bytes written at a time


@dataclass(frozen=True)
class About:
    """Origin of an index: the data it was built from. key: location, split and config keys; kind, path: format and file that was read.

    sources: files that were read; lacking: folders in which named images were missing.
    """

    key: dict[str, str]
    kind: str
    path: str
    sources: tuple[Stamp, ...]
    lacking: tuple[Stamp, ...] = ()


def storable(samples: Samples) -> bool:
    """Whether all image references can be written to a file."""
    column: Any = samples.paths
    return not column.source.objects and not column.source.shards


def write(folder: Path, samples: Samples, about: About) -> None:
    """Write the columns and their manifest, then give the folder its name. Raises DiskError; nothing is left then."""
    temporary = folder.with_name(f"{folder.name}.tmp.{os.getpid()}")
    try:
        fsio.make_folder(temporary)
        sizes = {name: _write_array(temporary / f"{name}.npy", array) for name, array in _arrays(samples).items()}
        known = samples.known
        assert known is not None
        body = {
            "version": VERSION, "key": about.key, "kind": about.kind, "path": about.path, "sources": about.sources,
            "lacking": about.lacking, "files": sizes, "name": samples.name, "notes": samples.notes,
            "classes": samples.classes, "fingerprint": known.fingerprint, "shared": known.shared,
            "distinct": known.distinct,
        }  # fmt: skip
        fsio.write_json(temporary / MANIFEST, {"index": body, "sha256": _digest(body)})
        fsio.commit_dir(temporary, folder)
    except DiskError:
        fsio.discard(temporary)
        raise


def read(folder: Path, key: dict[str, str], listing: Callable[[str, Path], list[Path]]) -> Samples | str | None:
    """The samples of an index; None where there is none, else STALE or TORN where it cannot be used.

    listing: (format, path) to the files that would be read now.
    """
    if not folder.is_dir():
        return None
    try:
        record = json.loads((folder / MANIFEST).read_bytes())
        body = record["index"]
        if record["sha256"] != _digest(body) or body["version"] != VERSION or body["key"] != key:
            return TORN
        if any((folder / f"{name}.npy").stat().st_size != size for name, size in body["files"].items()):
            return TORN
        sources, lacking = (tuple(Stamp(*row) for row in body[name]) for name in ("sources", "lacking"))
        now = stamps(listing(body["kind"], Path(body["path"])))
        if now != sources or stamps(old.path for old in lacking) != lacking:
            return STALE
        arrays = {name: open_array(folder / f"{name}.npy") for name in body["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return TORN
    return _samples(body, arrays, sources)


def _samples(body: dict[str, Any], arrays: dict[str, Array], sources: tuple[Stamp, ...]) -> Samples:
    def of(name: str) -> tuple[Array, Array]:
        return arrays[f"{name}.bytes"], arrays[f"{name}.ends"]

    table, rest = Texts(*of("pictures.table")), Blobs(*of("pictures.rest"))
    return Samples(
        body["name"],
        Column(Texts(*of("ids"))),
        Column(Pictures(arrays["pictures.where"], arrays["pictures.kinds"], table, rest)),
        Column(Captions(Texts(*of("captions")), arrays["captions.offsets"])),
        Column(Numbers(arrays["labels"])) if "labels" in arrays else None,
        None if body["classes"] is None else tuple(body["classes"]),
        tuple(body["notes"]),
        arrays["lengths"],
        Known(body["fingerprint"], body["shared"], body["distinct"]),
        tuple(source for source in sources if source.size >= 0),
    )


def _arrays(samples: Samples) -> dict[str, np.ndarray]:
    """The arrays of samples as a reader made them, whole."""
    ids, pictures, captions = (column.source for column in (samples.ids, samples.paths, samples.captions))  # type: ignore
    found = ids.arrays("ids") | pictures.arrays() | captions.texts.arrays("captions")
    found |= {"captions.offsets": captions.offsets, "lengths": np.asarray(samples.lengths)}
    return found if samples.labels is None else found | {"labels": np.fromiter(samples.labels, np.int64)}


def _write_array(path: Path, array: np.ndarray) -> int:
    """Write a one-dimensional array as npy; returns the size of the file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))

    def parts() -> Iterator[Any]:
        yield header.getvalue()
        flat = array.view("u1")
        for start in range(0, len(flat), PART):
            yield flat[start : start + PART]

    fsio.write_bytes(path, parts(), len(header.getvalue()) + array.nbytes)
    return path.stat().st_size


def _digest(body: Any) -> str:
    return hashlib.sha256(fsio.json_bytes(body)).hexdigest()
