"""`cmapkd report`: the page of a finished run, or of a demo's runs, gathered from their folders."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import cmapkd
from cmapkd.config.load import load_config
from cmapkd.config.schedules import resolve_schedule
from cmapkd.config.schema import Config, StageConfig, TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.log import read_rows
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.methods import METHODS
from cmapkd.policy import POLICIES
from cmapkd.pyramid.targets import Targets
from cmapkd.report.metric_names import KEY_METRIC
from cmapkd.report.plots import Matrix
from cmapkd.report.policy_decisions import policy_decisions
from cmapkd.report.retrieved_images import retrieved_images
from cmapkd.report.run_page import RunPage, write_run_page
from cmapkd.report.run_plots import LevelMatrices, run_plots
from cmapkd.report.run_results import final_row, read_run_result
from cmapkd.report.score_table import Role, ScoreRow
from cmapkd.report.stats import interval
from cmapkd.tasks.validation import open_task
from cmapkd.teacher.calibration_file import open_targets_of
from cmapkd.teacher.faults import corrupted
from cmapkd.teacher.reopen import open_cached_teacher
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower
from cmapkd.train import checkpoint
from cmapkd.train.runs.teacher_score import teacher_metrics

EXAMPLES = 8


def report_run(run: Path) -> Path:
    """Write the page of one finished run to its own folder."""
    if not final_row(run):
        raise UsageError(
            f"report {run}: no finished run here (metrics.jsonl has no final row); train it, or --resume it"
        )
    config = load_config(run / "config.yaml")
    return _write(config, {config.method: [run]}, run, run, f"cmapkd report {run}")


def report_comparison(method: str, methods: Sequence[str], out: Path, command: str) -> Path:
    """Write one page for the runs of several methods in `out`; plots and examples are those of `method`, first seed."""
    runs = {name: sorted(p for p in out.glob(f"{name}-*") if final_row(p)) for name in methods}
    main = (runs.get(method) or next(iter(runs.values())))[0]
    return _write(load_config(main / "config.yaml"), runs, main, out, command)


def _write(config: Config, runs: Mapping[str, Sequence[Path]], main: Path, out: Path, command: str) -> Path:
    log, stages = read_rows(main / "metrics.jsonl"), resolve_schedule(config.schedule, METHODS[config.method].stages)
    val = open_task("retrieval", config.data, config.eval) if config.data.val else None
    train = open_samples(config.data.train, config.data, config.data.train_split)
    teacher = f" from {config.teacher.model}" if config.teacher else ""
    splits = {"train": train} | ({"validation": val} if val else {})
    content = RunPage(
        title=f"{config.method}: {config.student.model}{teacher}",
        subtitle=f"{log[-1]['step']} steps of {config.train.batch} pairs, schedule {_schedule_name(config.schedule)}",
        synthetic=config.data.train.startswith("scenes:"),
        scores=tuple(_score_rows(config, runs)),
        data=(*(_split_line(name, split) for name, split in splits.items()), *_centring_lines(final_row(main))),
        log=log,
        plots=run_plots(log, [stage.name for stage in stages], _level_matrices(config, main, train, stages)),
        examples=tuple(retrieved_images(_student(main), val, EXAMPLES)) if val else (),
        config=(main / "config.yaml").read_text(),
        environment={"cmapkd": cmapkd.__version__, "torch": torch.__version__, "python": sys.version.split()[0],
                     "machine": platform.machine(), "threads": str(torch.get_num_threads())},
        command=command,
    )  # fmt: skip
    return write_run_page(out, content)


def _score_rows(config: Config, runs: Mapping[str, Sequence[Path]]) -> list[ScoreRow]:
    """The teacher, then each method with its mean and interval over seeds."""
    rows = []
    if config.teacher and (scores := teacher_metrics(config)):
        rows.append(ScoreRow("teacher", "teacher", scores, *_size(load_tower(config.teacher))))
    for method, folders in runs.items():
        if not folders:
            continue
        metrics = [read_run_result(folder, method, 0).metrics for folder in folders]
        means = {name: interval([row[name] for row in metrics]) for name in metrics[0]}
        spread = {name: half for name, (_, half) in means.items() if not math.isnan(half)}
        role: Role = "scratch" if method == "scratch" else "ours" if method == "cmapkd" else "baseline"
        size = _size(_student(folders[0]))
        rows.append(ScoreRow(method, role, {n: m for n, (m, _) in means.items()}, *size, len(folders), spread))
    return rows


def _level_matrices(config: Config, run: Path, train: Samples, stages: Sequence[StageConfig]) -> LevelMatrices:
    """The stages' levels, the calibrated coupling and bridge, and the final policy's decisions on train samples."""
    on = tuple(tuple(float(level in stage.levels) for level in LEVELS) for stage in stages)
    targets, weights, factor = open_targets_of(config.cache), None, None
    saved = checkpoint.latest(run / "checkpoints")
    if config.policy.name != "uniform" and config.cache.path is not None and config.teacher is not None and saved:
        teacher, _, shape = open_cached_teacher(config.teacher, config.data, config.cache, train)
        policy = POLICIES[config.policy.name](config.policy, shape.embedding)
        tensors = checkpoint.load_generation(saved)[0]
        policy.load_state_dict({k.removeprefix("policy/"): v for k, v in tensors.items() if k.startswith("policy/")})
        weights, factor = policy_decisions(policy, corrupted(teacher, config.corrupt, train), train, EXAMPLES)
    return LevelMatrices(
        Matrix(tuple(stage.name for stage in stages), LEVELS, on),
        weights,
        _pair_matrix(targets, "pairs/alpha"),
        factor,
        _pair_matrix(targets, "pairs/recall"),
    )


def _pair_matrix(targets: Targets | None, name: str) -> Matrix | None:
    if targets is None:
        return None
    return Matrix(IMAGE_LEVELS, TEXT_LEVELS, tuple(tuple(row) for row in targets.get(name).tolist()))


def _student(run: Path) -> DualEncoder:
    return load_tower(TowerConfig(model=f"local-dir:{run / 'student'}"))


def _size(tower: DualEncoder) -> tuple[int, float]:
    """(parameters, megabytes in float32)."""
    params = sum(p.numel() for p in tower.native.parameters())
    return params, params * 4 / 1e6


def _centring_lines(row: Mapping[str, Any]) -> list[str]:
    """A line on the mean subtracted from a centred student's image embeddings, with its score before; else none."""
    if not row.get("centred"):
        return []
    plain = f", plain: mean R@1 {100 * row[name]:.2f}" if (name := f"plain/{KEY_METRIC}") in row else ""
    return [f"centred: {row['centred']:g} × the mean image embedding is subtracted from each{plain}"]


def _split_line(role: str, samples: Samples) -> str:
    return f"{role}: {samples.name}, {len(samples)} images, {samples.n_captions} captions, {samples.fingerprint()[:12]}"


def _schedule_name(schedule: object) -> str:
    if schedule is None:
        return "of the method"
    return schedule if isinstance(schedule, str) else "of the config"
