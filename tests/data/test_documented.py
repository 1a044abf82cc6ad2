"""docs/data.md documents every format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

from cmapkd.config.schema import DataConfig
from cmapkd.data.readers import OTHERS, READERS

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_every_format_has_its_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert rows == {*READERS, *OTHERS, "scenes"}


def test_a_config_may_name_every_reader() -> None:
    named = get_args(get_type_hints(DataConfig)["format"])
    assert set(named) == {*READERS, "scenes", "auto"}
