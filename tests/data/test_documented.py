"""docs/data.md tells of every format that there is."""

from __future__ import annotations

import re
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.data.readers import OTHERS, READERS

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_every_format_has_its_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert rows == {*READERS, *OTHERS, "scenes"}


def test_a_config_may_name_every_reader() -> None:
    named = DataConfig.model_fields["format"].annotation.__args__  # type: ignore[union-attr]
    assert set(named) == {*READERS, "scenes", "auto"}
