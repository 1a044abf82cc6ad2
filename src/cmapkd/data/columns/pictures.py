"""References to images as arrays: a folder or container of a small table, and a few bytes each."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmapkd.data.columns.column import Column, chosen
from cmapkd.data.columns.spool import NumberSpool
from cmapkd.data.columns.texts import CODEC, Array, Blobs, BlobWriter, Texts
from cmapkd.data.parquet import Cell
from cmapkd.data.remote.copies import Copies
from cmapkd.data.remote.member import RemoteMember
from cmapkd.data.stored import Member, Picture, Region

FILE, MEMBER, REGION, CELL, OBJECT, REMOTE = range(6)  # kinds of reference; an object is kept in memory as it is
PLACE = struct.Struct("<qq")
BOX = struct.Struct("<6d")


class Pictures:
    """Images. where: int32 [n], rows of the table; kinds: uint8 [w] and table: w texts, folders and containers with the
    kind of what is in them; rest: n byte strings; objects: images of other kinds, which cannot be written to a file; shards:
    (copies, URL, size) of the rows of the table that are remote.
    """

    def __init__(
        self,
        where: Array,
        kinds: Array,
        table: Texts,
        rest: Blobs,
        objects: tuple[Picture, ...] = (),
        shards: dict[int, tuple[Copies, str, int]] | None = None,
    ) -> None:
        self.where, self.kinds, self.table, self.rest, self.objects = where, kinds, table, rest, objects
        self.shards = shards or {}

    def __len__(self) -> int:
        return len(self.where)

    def at(self, row: int) -> Picture:
        place, data = int(self.where[row]), self.rest.at(row)
        kind, where = int(self.kinds[place]), self.table.at(place)
        if kind == FILE:
            return Path(where, data.decode(*CODEC))
        if kind == MEMBER:
            return Member(Path(where), data[PLACE.size :].decode(*CODEC), *PLACE.unpack_from(data))
        if kind == CELL:
            return Cell(Path(where), data[PLACE.size :].decode(*CODEC), *PLACE.unpack_from(data))
        if kind == REGION:
            *box, width, height = BOX.unpack_from(data)
            frame = (int(width), int(height)) if width >= 0 else None
            return Region(Path(where, data[BOX.size :].decode(*CODEC)), (box[0], box[1], box[2], box[3]), frame)
        if kind == REMOTE:
            offset, size = PLACE.unpack_from(data)
            return RemoteMember(*self.shards[place], data[PLACE.size :].decode(*CODEC), offset, size)
        return self.objects[PLACE.unpack(data)[0]]

    def arrays(self) -> dict[str, Array]:
        """The arrays by the names of their files."""
        named = {"pictures.where": self.where, "pictures.kinds": self.kinds}
        return named | self.table.arrays("pictures.table") | self.rest.arrays("pictures.rest")


class PictureWriter:
    """Appends images. folder: for temporary files."""

    def __init__(self, folder: Path | None = None) -> None:
        self._where, self._rest = NumberSpool("i", folder), BlobWriter(folder)
        self._places: dict[tuple[int, str], int] = {}
        self._objects: list[Picture] = []
        self._shards: dict[int, tuple[Copies, str, int]] = {}

    def add(self, picture: Picture | str) -> None:
        """Append an image; the path of a file may be given as text."""
        place, rest = self._encoded(picture)
        number = self._places.setdefault(place, len(self._places))
        if isinstance(picture, RemoteMember):
            self._shards[number] = picture.copies, picture.url, picture.shard_bytes
        self._where.add(number)
        self._rest.add(rest)

    def pictures(self) -> Pictures:
        table, kinds = BlobWriter(), np.array([kind for kind, _ in self._places], np.uint8)
        for _, where in self._places:
            table.add(where.encode(*CODEC))
        return Pictures(
            self._where.array(), kinds, table.texts(), self._rest.blobs(), tuple(self._objects), self._shards
        )

    def _encoded(self, picture: Any) -> tuple[tuple[int, str], bytes]:
        """((kind, folder or container), the rest)."""
        if isinstance(picture, str):
            where, name = os.path.split(picture)
            return (FILE, where), name.encode(*CODEC)
        if isinstance(picture, Path):
            return (FILE, str(picture.parent)), picture.name.encode(*CODEC)
        if isinstance(picture, Member):
            rest = PLACE.pack(picture.offset, picture.size) + picture.name.encode(*CODEC)
            return (MEMBER, str(picture.path)), rest
        if isinstance(picture, RemoteMember):
            rest = PLACE.pack(picture.offset, picture.bytes_) + picture.name.encode(*CODEC)
            return (REMOTE, f"{picture.copies.folder}\n{picture.url}"), rest
        if isinstance(picture, Cell):
            rest = PLACE.pack(picture.group, picture.row) + picture.column.encode(*CODEC)
            return (CELL, str(picture.path)), rest
        if isinstance(picture, Region):
            rest = BOX.pack(*picture.box, *(picture.frame or (-1, -1))) + picture.path.name.encode(*CODEC)
            return (REGION, str(picture.path.parent)), rest
        self._objects.append(picture)
        return (OBJECT, ""), PLACE.pack(len(self._objects) - 1, 0)


def picture_column(pictures: Iterable[Picture | str]) -> Column[Picture]:
    """The images as a column."""
    writer = PictureWriter()
    for picture in pictures:
        writer.add(picture)
    return Column(writer.pictures())


def containers_of(pictures: Sequence[Picture], indices: np.ndarray) -> np.ndarray:
    """int64 [m]: a number of the file or shard that holds each of these images; −1 for an image that is a file of its own."""
    column: Any = pictures
    source: Pictures = column.source
    where = np.asarray(source.where)[chosen(column, indices)].astype(np.int64)
    inside = np.isin(np.asarray(source.kinds)[where], (MEMBER, CELL, REMOTE))
    return np.where(inside, where, -1)
