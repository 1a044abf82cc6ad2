"""Golden curves: every loss of every step of short runs is what it was, unless CHANGELOG.md says that it moved."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest

from golden import curves

GOLDEN = json.loads(curves.KEPT.read_text())
SAME = curves.machine() == GOLDEN["machine"]
TOLERANCE = 1e-5 if SAME else 2e-2  # other processors and releases of torch add up in another order
CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("golden")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMAPKD_DATA", str(root / "data"))
        yield root


@pytest.mark.parametrize("name", curves.cases())
def test_the_losses_of_every_step_are_what_they_were(world, name):
    steps, golden = curves.run(world, name), GOLDEN["curves"][name]
    assert [step.keys() for step in steps] == [step.keys() for step in golden]
    moved = [
        f"step {k + 1}: {figure} is {step[figure]!r} and was {was[figure]!r}"
        for k, (step, was) in enumerate(zip(steps, golden, strict=True))
        for figure in was
        if not math.isclose(step[figure], was[figure], rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    ]
    assert not moved


def test_no_golden_curve_is_of_a_case_that_is_gone():
    assert GOLDEN["curves"].keys() == curves.cases().keys()


def test_the_changelog_knows_the_golden_curves_that_are_kept():
    digest = hashlib.sha256(curves.KEPT.read_bytes()).hexdigest()[:12]
    assert f"`{digest}`" in CHANGELOG.read_text(), (
        f"golden curves changed: say why in CHANGELOG.md, and name `{digest}`"
    )
