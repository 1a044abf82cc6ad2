"""Runs on two processes from the command line: kill, hang, resume, and mistakes that only several processes can make."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import world
from cmapkd.cli.main import main
from cmapkd.config.load import dump_config
from cmapkd.config.schema import Config
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.distributed.place import Place
from cmapkd.train import checkpoint
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.plan import refuse_uneven
from waiting import LIMIT, until

STEPS = 60


def config(root: Path, run: Path, **over) -> Config:
    """A run whose method draws random masks for its images, so that a resumed one has to draw the same."""
    keys = {"method": "clip_kd", "train__steps": STEPS, "train__checkpoint_every": 5, "eval__every": 30, **over}
    return world.config(root, run=str(run), **keys)


def start(config: Config, *flags: str, devices: int = 2, **environment: str) -> subprocess.Popen[str]:
    path = config.run.with_name(f"{config.run.name}.yaml")
    path.write_text(dump_config(config))
    command = [sys.executable, "-m", "cmapkd", "distill", "--config", str(path), "--devices", str(devices), *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})


def process_of(parent: int, rank: int) -> int | None:
    """The child process that is this rank."""
    for folder in Path("/proc").iterdir():
        try:
            mine = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent
            if mine and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except (OSError, IndexError, ValueError):
            continue
    return None


def last_step(run: Path) -> int:
    last = checkpoint.latest(run / "checkpoints")
    return int(last.name.removeprefix("step-")) if last else 0


def lose(process: subprocess.Popen[str], run: Path, rank: int, number: int) -> tuple[int, int, str]:
    """(exit code, process of the rank, what was said) after a signal to one rank in mid-run."""
    assert until(lambda: process.poll() is not None or last_step(run) >= 5)
    lost = process_of(process.pid, rank)
    assert lost is not None
    os.kill(lost, number)
    said = process.communicate(timeout=LIMIT)[1]
    return process.returncode, lost, said


def steps(run: Path) -> list[dict]:
    rows = [row for row in world.rows(run) if row["kind"] == "train"]
    return [{key: value for key, value in row.items() if key != "waited"} for row in rows]  # a share of wall time


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory) -> Path:
    """A run of two processes that nothing happens to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    process = start(config(root, run))
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode == 0, said
    assert "on 2 processes" in said
    return run


def test_two_processes_see_the_samples_of_one_and_end_alike(root, whole, tmp_path):
    one = distill(config(root, tmp_path / "one"))
    for mine, theirs in zip(steps(whole), steps(one), strict=True):
        assert mine["order"] == theirs["order"] and mine["step"] == theirs["step"]
    assert len({row["order"] for row in steps(one)}) == STEPS, "each step has its own samples"
    for mine, theirs in zip(steps(whole)[:8], steps(one)[:8], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    finals = [next(row for row in world.rows(run) if row["kind"] == "final") for run in (whole, one)]
    assert finals[0]["ledger"] == finals[1]["ledger"] == {"seen": STEPS * 8, "quarantined": 0}
    assert finals[0]["mean_recall@1"] == pytest.approx(finals[1]["mean_recall@1"], abs=0.07)
    assert [row["step"] for row in world.rows(whole) if row["kind"] == "val"] == [30, 60]


def test_a_killed_process_ends_the_run_with_its_name_and_the_rest_is_resumed(root, whole, tmp_path):
    run = tmp_path / "run"
    code, lost, said = lose(start(config(root, run)), run, 1, signal.SIGKILL)
    assert code == 7 and f"rank 1 (process {lost}) was killed by SIGKILL" in said
    shutil.copytree(run, tmp_path / "copy")

    process = start(config(root, run), "--resume")
    assert process.wait(LIMIT) == 0, process.communicate()[1]
    mine, theirs = world.final_tensors(run), world.final_tensors(whole)
    assert mine.keys() == theirs.keys() and any(name.startswith("rng/1/") for name in mine)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine), "resumed on as many processes, to the bit"
    assert steps(run) == steps(whole)

    shutil.rmtree(run)
    other = distill(config(root, (tmp_path / "copy").rename(run)), resume=True)
    assert [row["order"] for row in steps(other)] == [row["order"] for row in steps(whole)]
    first = next(k for k, row in enumerate(steps(other)) if row != steps(whole)[k])
    assert first >= 5 and steps(other)[first]["loss"] == pytest.approx(steps(whole)[first]["loss"], rel=1e-5)
    assert steps(other)[-1]["loss"] == pytest.approx(steps(whole)[-1]["loss"], rel=1e-2)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_hangs_ends_the_run_after_the_timeout(root, tmp_path, rank):
    run = tmp_path / "run"
    code, lost, said = lose(start(config(root, run, train__timeout=15.0)), run, rank, signal.SIGSTOP)
    assert code == 7 and f"rank {rank} (process {lost} on " in said and "was lost" in said
    assert last_step(run) >= 5
    assert not Path(f"/proc/{lost}").exists()


def test_a_signal_to_the_command_stops_all_after_the_same_step(root, tmp_path):
    run = tmp_path / "run"
    process = start(config(root, run, train__steps=4000, train__checkpoint_every=2000, eval__every=None))
    metrics = run / "metrics.jsonl"
    assert until(lambda: process.poll() is not None or (metrics.exists() and '"train"' in metrics.read_text()))
    process.terminate()
    assert process.wait(LIMIT) == 143
    assert last_step(run) == steps(run)[-1]["step"]


def test_a_run_whose_command_is_killed_saves_and_stops(root, tmp_path):
    run = tmp_path / "run"
    process = start(config(root, run, train__steps=4000, train__checkpoint_every=2000, eval__every=None))
    metrics = run / "metrics.jsonl"
    assert until(lambda: process.poll() is not None or (metrics.exists() and '"train"' in metrics.read_text()))
    ranks = [process_of(process.pid, rank) for rank in (0, 1)]
    process.kill()
    assert until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks))
    assert last_step(run) == steps(run)[-1]["step"]


def test_a_mistake_is_told_once(root, tmp_path):
    process = start(config(root, tmp_path / "run", train__batch=9))
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode == 2
    assert said.count("train.batch is 9, which 2 processes cannot share equally; give a multiple of 2") == 1
    assert not (tmp_path / "run").exists()


def test_processes_with_different_configs_are_refused(root, tmp_path):
    from distributed.together import together

    found = together(2, differ, tmp_path / "answers", root, tmp_path)
    assert found[0] == found[1] == "rank 1: train.lr is 0.5, but 0.001 in rank 0; give all the same config"
    assert not (tmp_path / "run").exists()


def test_processes_that_read_other_data_are_refused(root, tmp_path):
    from distributed.together import together

    found = together(2, differ_in_data, tmp_path / "answers", root, tmp_path)
    assert found[0] == found[1]
    assert found[0].startswith("rank 1: data: ids, captions and sizes of images is other, but ")
    assert not (tmp_path / "run").exists()


def differ_in_data(root: Path, folder: Path) -> str:
    from cmapkd.data.samples import Samples
    from cmapkd.distributed.group import rank

    if rank():
        Samples.fingerprint = lambda self: "other"
    try:
        distill(config(root, folder / "run", method="scratch"))
    except IntegrityError as error:
        return str(error)
    return ""


def differ(root: Path, folder: Path) -> str:
    from cmapkd.distributed.group import rank

    try:
        distill(config(root, folder / "run", **({"train__lr": 0.5} if rank() else {})))
    except UsageError as error:
        return str(error)
    return ""


def test_a_stripe_has_room_for_every_part_of_an_accumulated_batch(root, tmp_path):
    with pytest.raises(UsageError, match="train.accumulate is 4, but a process has 2 samples of each batch"):
        refuse_uneven(config(root, tmp_path, train__accumulate=4), 4)


def test_other_commands_are_started_once(monkeypatch, capsys):
    for name, value in Place(0, 2, 0, 2, "127.0.0.1", 1).environment().items():
        monkeypatch.setenv(name, value)
    assert main(["compare", "--config", "scenes"]) == 2
    assert "compare was started in 2 processes; start it once, and set train.devices" in capsys.readouterr().err
