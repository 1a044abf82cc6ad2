"""A run depends on its config alone: cut, killed or terminated and resumed, it ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import world
from cmapkd.config.load import dump_config
from cmapkd.core.errors import IntegrityError
from cmapkd.train import checkpoint
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.prepare import build_cache
from waiting import LIMIT, until

SCRIPT = """
import sys
from pathlib import Path
from cmapkd.config.load import load_config
from cmapkd.train.runs.distill import distill
distill(load_config(Path(sys.argv[1])), resume=len(sys.argv) > 2)
"""


def same(a: Path, b: Path) -> None:
    x, y = world.final_tensors(a), world.final_tensors(b)
    assert x.keys() == y.keys()
    for name in x:
        assert torch.equal(x[name], y[name]), name


def test_same_seed_same_floats(root):
    a, b = (distill(world.config(root, run=str(root / f"twin{k}"))) for k in range(2))
    same(a, b)


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"train__accumulate": 2},
        {"student": {"model": "cmapkd-rn-small-64", "tokenizer": "teacher"}},  # convolutions, laid out channels last
        *(
            {
                "policy__name": name,
                "policy__every": 1,
                "policy__collect": 0.1,
                "data__holdout": 0.2,
                "cache__path": "own",
            }
            for name in ("random", "veto", "routing", "rl")
        ),
    ],
)
def test_resuming_in_mid_epoch_is_bit_exact(root, tmp_path, over):
    if over.get("cache__path"):
        over = {**over, "cache__path": str(root / "cache-held")}
        build_cache(world.config(root, **over))
    whole = distill(world.config(root, run=str(tmp_path / "whole"), **over))
    config = world.config(root, run=str(tmp_path / "cut"), **over)
    world.cut_off(config, 4)
    folder = distill(config, resume=True)
    same(whole, folder)
    assert world.steps_of(folder) == list(range(1, 9))
    rows = [world.rows(f) for f in (whole, folder)]
    told = [
        [{k: v for k, v in row.items() if k != "waited"} for row in own if row["kind"] in ("train", "policy")]
        for own in rows
    ]
    assert told[0] == told[1], "but for the time, the log of a resumed run is that of one that was never cut"


def test_a_key_that_is_newer_than_the_run_has_its_default(root, tmp_path):
    config = world.config(root, run=str(tmp_path / "old"), train__steps=2, eval__every=None)
    folder = distill(config)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text("".join(line for line in text.splitlines(True) if "regions:" not in line))
    assert distill(config, resume=True) == folder
    with pytest.raises(IntegrityError, match=r"'train\.lr' is now 0\.5 but was"):
        distill(
            world.config(root, run=str(tmp_path / "old"), train__steps=2, eval__every=None, train__lr=0.5), resume=True
        )


def last_step(run: Path) -> int:
    """The step of a run's last checkpoint, 0 without one."""
    last = checkpoint.latest(run / "checkpoints")
    return int(last.name.removeprefix("step-")) if last else 0


def test_kill_minus_nine_loses_no_checkpoint_and_the_run_ends_the_same(root, tmp_path):
    over = {"train__steps": 40, "train__checkpoint_every": 1, "eval__every": None, "method": "scratch"}
    whole = distill(world.config(root, run=str(tmp_path / "whole"), **over))
    folder, path = tmp_path / "killed", tmp_path / "config.yaml"
    path.write_text(dump_config(world.config(root, run=str(folder), **over)))
    rng, reached = random.Random(0), 0
    for attempt in range(int(os.environ.get("CMAPKD_FAULTS", "3"))):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(path), *(["resume"] if attempt else [])], env=os.environ
        )
        target = reached + rng.randint(1, 8)
        assert until(lambda: process.poll() is not None or last_step(folder) >= target)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert last_step(folder) >= reached
        reached = last_step(folder)
    distill(world.config(root, run=str(folder), **over), resume=(folder / "config.yaml").exists())
    same(whole, folder)
    assert world.steps_of(folder) == list(range(1, 41))


def test_sigterm_finishes_the_step_and_exits_with_143(root, tmp_path):
    over = {"train__steps": 4000, "train__checkpoint_every": 4000, "eval__every": None, "method": "scratch"}
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(world.config(root, run=str(tmp_path / "run"), **over)))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], env=os.environ)
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert until(lambda: process.poll() is not None or (metrics.exists() and '"train"' in metrics.read_text()))
    process.terminate()
    assert process.wait(LIMIT) == 143
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") is not None


def test_signals_are_the_callers_again_after_training(root, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    distill(world.config(root, run=str(tmp_path / "run"), method="scratch", train__steps=2, eval__every=None))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
