"""Result files: the JSON lists that challenges take, a row per question, caption or box."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmapkd.config.schema import DataConfig
from cmapkd.config.suite import ResultData
from cmapkd.core import fsio
from cmapkd.core.errors import DataError
from cmapkd.data.holdout import Data, hold_out
from cmapkd.data.readers.text import read_json

ResultRow = dict[str, Any]


def write_results(path: Path, rows: Sequence[ResultRow]) -> None:
    """Write a result file, whole or not at all. Raises DiskError."""
    fsio.write_bytes(path, json.dumps(list(rows), allow_nan=False).encode())


def read_rows(path: Path, form: str) -> list[Any]:
    """The entries of a result file. form: how a row looks, for the error. Raises DataError for what is no list."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: a result file is a list of {form}, this is a {type(rows).__name__}")
    return rows


def data_settings(data: ResultData) -> DataConfig:
    """The data section that reads the truth of a result file."""
    return DataConfig(train=data.data, images=data.images)


def scored_share(truth: Data, data: ResultData) -> Data:
    """All of the truth, or the share that `train-head --val holdout` scores: the same images for the same data."""
    return truth if data.holdout is None else hold_out(truth, data.holdout)[1]
