"""One image in a parquet file, and pyarrow where it is installed."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cmapkd.core.errors import UsageError


@dataclass(frozen=True)
class Cell:
    """An image in a parquet file: row `row` of row group `group` in column `column`; the last two groups are cached."""

    path: Path
    column: str
    group: int
    row: int

    @property
    def name(self) -> str:
        return f"{self.path.name}/{self.column}[{self.group}:{self.row}]"

    def length(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else -1

    def read(self) -> bytes:
        cell = _row_group(self.path, self.column, self.group)[self.row].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if data is None and isinstance(cell, dict) and cell.get("path"):
            return (self.path.parent / cell["path"]).read_bytes()
        if data is None:
            raise OSError("the cell is empty")
        return data

    def __str__(self) -> str:
        return f"{self.path.parent / self.name}"


@lru_cache(maxsize=2)
def _row_group(path: Path, column: str, group: int) -> Any:
    return arrow(".parquet").ParquetFile(path).read_row_group(group, columns=[column]).column(0)


def arrow(module: str) -> Any:
    """A submodule of pyarrow. Raises UsageError when pyarrow is not installed."""
    try:
        return importlib.import_module(f"pyarrow{module}")
    except ImportError:
        raise UsageError("Hugging Face's parquet and arrow files need pyarrow: pip install 'cmapkd[hf]'") from None
