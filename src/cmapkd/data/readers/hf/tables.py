"""Tables of Hugging Face data sets in parquet and arrow files: their rows, and where the image bytes are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.parquet import Cell, arrow
from cmapkd.data.readers.hf.columns import Columns, pick
from cmapkd.data.stored import Member, Picture

HEAVY = 64 * 2**20


@dataclass(frozen=True)
class Table:
    """The rows of a file without images; pictures: the images, empty when the image column holds file names."""

    columns: Columns
    rows: list[dict[str, Any]]
    pictures: list[Picture]
    notes: tuple[str, ...] = ()


def read_parquet(path: Path, data: DataConfig) -> Table:
    """Texts and labels of a parquet file; images are read when needed, one row group at a time."""
    parquet = arrow(".parquet")
    try:
        file = parquet.ParquetFile(path)
        columns = pick(path, file.schema_arrow, data)
        rows = file.read(columns=_light(columns)).to_pylist()
        groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
    except arrow("").ArrowException as error:
        raise _broken(path, error) from None
    if not columns.embedded:
        return Table(columns, rows, [])
    pictures = [Cell(path, columns.image, g, row) for g, group in enumerate(groups) for row in range(group.num_rows)]
    heaviest = max((group.total_byte_size for group in groups), default=0)
    slow = f"row groups of {heaviest // 2**20} MB: each image out of order reads one whole; write it anew with smaller ones"
    return Table(columns, rows, list(pictures), (slow,) if heaviest > HEAVY else ())


def read_arrow(path: Path, data: DataConfig) -> Table:
    """The rows of an arrow file written by `save_to_disk`, with the offsets of its uncompressed images."""
    pa = arrow("")
    try:
        with pa.memory_map(str(path)) as source:
            whole = source.read_buffer()
            reader = pa.ipc.open_stream(whole)
            columns = pick(path, reader.schema, data)
            rows: list[dict[str, Any]] = []
            pictures: list[Picture] = []
            for batch in reader:
                rows += batch.select(_light(columns)).to_pylist()
                if columns.embedded:
                    places = _places(batch.column(batch.schema.get_field_index(columns.image)), whole, path)
                    pictures += [
                        Member(path, f"{path.name}/{len(pictures) + k}", at, size)
                        for k, (at, size) in enumerate(places)
                    ]
            return Table(columns, rows, pictures)
    except arrow("").ArrowException as error:
        raise _broken(path, error) from None


def _places(column: Any, whole: Any, path: Path) -> Iterator[tuple[int, int]]:
    """(offset in the file, length) of the bytes of every cell."""
    cells = column.field("bytes") if hasattr(column, "field") else column
    _, offsets, data = cells.buffers()
    wide = np.int64 if str(cells.type).startswith("large") else np.int32
    ends = np.frombuffer(offsets, wide)[cells.offset : cells.offset + len(cells) + 1].astype(np.int64)
    base = data.address - whole.address if data is not None else 0
    if data is not None and not 0 <= base <= whole.size - data.size:
        raise DataError(f"{path}: its batches are compressed; save the data set anew without compression")
    return iter(zip((base + ends[:-1]).tolist(), np.diff(ends).tolist(), strict=True))


def _light(columns: Columns) -> list[str]:
    """The columns read immediately: all but the image bytes."""
    wanted = (None if columns.embedded else columns.image, columns.text, columns.label)
    return [name for name in wanted if name]


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({str(error).splitlines()[0][:120]}); is it cut off?")
