"""docs/method.md is the map from equations to code: every name on it stands in the code, every order of levels on it."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from cmapkd.config.schedules import SCHEDULES
from cmapkd.methods import METHODS, TERMS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "method.md").read_text()
NAMES = sorted(set(re.findall(r"`([a-z_]+):(\w+)`", PAGE)))
ROWS = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)?(?:, `(\w+)`)? \| (L_\w+)", PAGE, re.MULTILINE)
DESIGN = {"L_intra_v", "L_intra_l", "L_align", "L_pyramid_align", "L_relation", "L_layer_relation", "L_task"}


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_function_that_the_page_names_exists(module, name):
    folders = ("losses", "pyramid", "towers", "towers.inherit")
    places = [place for place in folders if importlib.util.find_spec(f"cmapkd.{place}.{module}")]
    assert any(hasattr(importlib.import_module(f"cmapkd.{place}.{module}"), name) for place in places)


def test_every_file_that_the_page_names_exists():
    paths = re.findall(r"`(src/cmapkd/[\w/.]+)`", PAGE)
    assert len(paths) > 5 and all((ROOT / path).exists() for path in paths)


def test_the_seven_terms_of_the_design_and_all_of_cmapkd_fulls_stand_in_the_tables():
    named = {name for row in ROWS for name in row[:3] if name}
    assert named <= set(TERMS) and set(METHODS["cmapkd_full"].weights) | {"task"} == named
    assert all(symbol in PAGE for symbol in DESIGN)


def test_the_page_lists_exactly_the_schedules_there_are():
    table = PAGE.split("## Schedules")[1]
    listed = {
        name for line in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)
    }
    assert listed == set(SCHEDULES)
