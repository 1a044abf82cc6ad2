"""Trackers get every row of metrics.jsonl; one that is missing is said before the run, one that fails ends no run."""

import sys
import types

import pytest

import world
from cmapkd.core.errors import UsageError
from cmapkd.train.runs.distill import distill


@pytest.fixture
def tensorboard(monkeypatch):
    """Stands in for the package: (tag, value, step) of every call; `broken` makes calls fail."""
    state = types.SimpleNamespace(calls=[], broken=False)

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            state.folder = folder

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            if state.broken:
                raise RuntimeError("no connection")
            state.calls.append((tag, value, step))

        def flush(self) -> None: ...

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return state


def test_every_number_of_every_row_is_tracked(root, tmp_path, tensorboard):
    folder = distill(world.config(root, run=str(tmp_path / "r"), train__steps=4, train__track=["tensorboard"]))
    rows = world.rows(folder)
    assert {("train/loss", row["loss"], row["step"]) for row in rows if row["kind"] == "train"} <= set(
        tensorboard.calls
    )
    assert ("final/mean_recall@1", rows[-1]["mean_recall@1"], 4) in tensorboard.calls
    assert not [tag for tag, _, _ in tensorboard.calls if tag.endswith("/step")]


def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(root, tmp_path, tensorboard, capsys):
    tensorboard.broken = True
    folder = distill(world.config(root, run=str(tmp_path / "r"), train__steps=4, train__track=["tensorboard"]))
    assert (folder / "student").is_dir() and capsys.readouterr().err.count("tensorboard failed") == 1


def test_a_tracker_that_is_not_installed_is_refused_and_leaves_no_folder(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"train.track: wandb is not installed; pip install 'cmapkd\[track\]'"):
        distill(world.config(root, run=str(tmp_path / "r"), train__track=["wandb"]))
    assert not (tmp_path / "r").exists()
