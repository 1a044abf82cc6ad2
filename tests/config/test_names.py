"""Every name in a config is checked before torch is imported, with the nearest right one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmapkd.config import names
from cmapkd.config.load import load_config
from cmapkd.core.errors import UsageError
from cmapkd.methods import METHODS, TERMS
from cmapkd.policy import POLICIES

WRONG = [
    ("method=cmpkd", "method 'cmpkd' is unknown; known: scratch, ", "(did you mean 'cmapkd'?)"),
    ("policy.name=gatin", "policy.name 'gatin' is unknown; known: uniform, ", "(did you mean 'gating'?)"),
    ("schedule=coarse_to_fin", "schedule 'coarse_to_fin' is unknown; ", "(did you mean 'coarse_to_fine'?)"),
    (
        "schedule=[{name: a, until: 1.0, scale: {algn: 1}}]",
        "schedule stage 'a' scales unknown term 'algn'",
        "'align'?)",
    ),
    ("schedule=[{name: a, until: 0.9}]", "schedule: the stages' `until` are [0.9]", "end at 1.0"),
    ("weights.algn=1", "weights.algn: no such term; known: ", "(did you mean 'align'?)"),
    ("share.relatoin=1", "share.relatoin: no such term; known: ", "(did you mean 'relation'?)"),
    ("options.logit={temperature: 2}", "options.logit: no such term; known: ", "(did you mean 'logits'?)"),
]


def test_the_names_in_the_source_are_those_of_the_registries():
    assert names.methods() == tuple(METHODS)
    assert names.terms() == tuple(TERMS)
    assert names.policies() == tuple(POLICIES)


def test_a_table_is_read_over_several_lines_and_nothing_behind_it(tmp_path, monkeypatch):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.py").write_text(
        'import torch\n\nTABLE: dict[str, int] = {\n    "one": 1,\n\n    "two": f(\n        2\n    ),\n}  # end\nOTHER = {"no": 0}\n'
    )
    (tmp_path / "some" / "b.py").write_text('TABLE = {"three": 3}\nTABLES = {"no": 0}\ndef f(): TABLE = {"no": 0}\n')
    (tmp_path / "some" / "c.py").write_text('TABLE = collect("TABLE")\n')
    monkeypatch.setattr(names, "PACKAGE", tmp_path)
    assert names.keys_of("some", "TABLE") == ("one", "two", "three")


@pytest.mark.parametrize(("override", "line", "hint"), WRONG, ids=[override for override, *_ in WRONG])
def test_an_unknown_name_is_one_line_with_the_nearest_right_one(override, line, hint):
    with pytest.raises(UsageError) as caught:
        load_config(Path("scenes"), [override])
    assert str(caught.value).startswith(f"config scenes: {line}") and str(caught.value).endswith(hint)


def test_all_wrong_names_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        load_config(Path("scenes"), ["method=cmpkd", "policy.name=gatin", "weights.algn=1"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("override", ["method=cmpkd", "policy.name=gatin", "schedule=coarse_to_fin", "weights.algn=1"])
def test_a_wrong_name_on_the_command_line_exits_2_without_importing_torch(override):
    code = (
        "import sys; from cmapkd.cli.main import main\n"
        f"code = main(['distill', '--config', 'scenes', {override!r}])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; sys.exit(code)"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: config scenes: ") and "did you mean" in done.stderr
