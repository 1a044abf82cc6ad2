"""One thread (small tensors on many threads are far slower), and every shape annotation checked while tests run."""

from __future__ import annotations

import os
from pathlib import Path
from pkgutil import iter_modules

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts; processes that tests start inherit it

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

# Kept in a name for the whole run: the hook lives as long as this object. It must stand before the first import of
# the packages that it checks.
# The Python interface is left out: it answers arguments of any wrong type itself.
PACKAGES = [info.name for info in iter_modules([str(Path(__file__).parents[1] / "src" / "cmapkd")]) if info.ispkg]
SHAPES_CHECKED = install_import_hook([f"cmapkd.{name}" for name in PACKAGES], "annotations.check")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with an untrained teacher, a student to start from and the teacher's finished cache: see world.config."""
    import world  # after the hook
    from cmapkd.train.setup.prepare import build_cache

    root = tmp_path_factory.mktemp("world")
    os.environ["CMAPKD_DATA"] = str(root / "data")
    world.teacher_folder(root / "teacher", seed=0, width=48)
    world.teacher_folder(root / "student-init", seed=1, width=32)
    build_cache(world.config(root))
    return root


def pytest_addoption(parser):
    parser.addoption(
        "--all-pairs", action="store_true", help="tests/test_pairs.py: the whole matrix of teachers and students"
    )
