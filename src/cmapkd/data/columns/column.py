"""Column: a read-only sequence over arrays, whose items are made when they are asked for."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, SupportsIndex, TypeVar, overload

import numpy as np

from cmapkd.data.columns.file_array import FileArray

Item = TypeVar("Item")
Made = TypeVar("Made", covariant=True)
Rows = range | np.ndarray


class Source(Protocol[Made]):
    """Arrays with one item a row."""

    def __len__(self) -> int: ...
    def at(self, row: int) -> Made: ...


class Column(Sequence[Item]):
    """The items of `source` in `rows` (all by default). A slice is a column of the same source; it equals a tuple of its items."""

    def __init__(self, source: Source[Item], rows: Rows | None = None) -> None:
        self.source: Any = source
        self.rows: Rows = range(len(source)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Column[Item]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Item | Column[Item]:
        if isinstance(index, slice):
            return Column(self.source, self.rows[index])
        return self.source.at(int(self.rows[operator.index(index)]))

    def __iter__(self) -> Iterator[Item]:
        at = self.source.at
        return (at(int(row)) for row in self.rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"({shown}{', …' if len(self) > 3 else ''}) of {len(self)}"

    @property
    def whole(self) -> bool:
        """Whether it has all items of its source, in their order."""
        return isinstance(self.rows, range) and self.rows == range(len(self.source))

    def pick(self, indices: np.ndarray) -> Column[Item]:
        """The items at these positions. indices: int [m]."""
        rows = indices if self.whole else chosen(self, indices)
        return Column(self.source, rows.astype(np.int32) if len(self.source) < 2**31 else rows)


def chosen(column: Column[Any], indices: np.ndarray | None = None) -> np.ndarray:
    """int64 [m]: the rows of a column's source at these positions, by default at all."""
    if isinstance(column.rows, range):
        first, step = column.rows.start, column.rows.step
        return first + step * (np.arange(len(column)) if indices is None else indices)
    return (column.rows if indices is None else column.rows[indices]).astype(np.int64)


class Numbers:
    """A source of whole numbers. values: int [n]."""

    def __init__(self, values: np.ndarray | FileArray) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def at(self, row: int) -> int:
        return int(self.values[row])
