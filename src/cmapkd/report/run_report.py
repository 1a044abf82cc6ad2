"""`cmapkd report`: from run folders to the page: scores, curves, weights, coupling and retrieved pictures."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cmapkd
from cmapkd.config.load import load_config
from cmapkd.config.schema import Config, StageConfig, TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.log import read_rows
from cmapkd.core.types import IMAGE_LEVELS, LEVELS, TEXT_LEVELS, Batch, Inputs
from cmapkd.data.loader import read_images
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.methods import METHODS
from cmapkd.policy import POLICIES
from cmapkd.pyramid.targets import Targets
from cmapkd.report.figures import Matrix
from cmapkd.report.page import Report, Retrieved, write_report
from cmapkd.report.results import final_row, read_result
from cmapkd.report.scores import Role, ScoreRow
from cmapkd.report.stats import interval
from cmapkd.report.tables import KEY
from cmapkd.tasks.validation import open_task
from cmapkd.teacher.calibration import open_targets_of
from cmapkd.teacher.faults import corrupted
from cmapkd.teacher.reopen import open_cached_teacher
from cmapkd.towers.dual import Tower
from cmapkd.towers.load import load_tower
from cmapkd.train import checkpoint
from cmapkd.train.schedule import resolve_schedule
from cmapkd.train.teacher_score import teacher_metrics

EXAMPLES, SHOWN = 8, 5


def report_run(run: Path) -> Path:
    """The page of one finished run, in its own folder."""
    if not final_row(run):
        raise UsageError(
            f"report {run}: no finished run here (metrics.jsonl has no final row); train it, or --resume it"
        )
    config = load_config(run / "config.yaml")
    return _page(config, {config.method: [run]}, run, run, f"cmapkd report {run}")


def report_comparison(config: Config, methods: list[str], out: Path, command: str) -> Path:
    """The page of a comparison; curves, weights and pictures are those of the config's own method, seed 0."""
    runs = {method: sorted(p for p in out.glob(f"{method}-*") if final_row(p)) for method in methods}
    main = (runs.get(config.method) or next(iter(runs.values())))[0]
    return _page(load_config(main / "config.yaml"), runs, main, out, command)


def _page(config: Config, runs: dict[str, list[Path]], main: Path, out: Path, command: str) -> Path:
    metrics = read_rows(main / "metrics.jsonl")
    targets = open_targets_of(config)
    val = open_task(config, "retrieval") if config.data.val else None
    student = load_tower(TowerConfig(model=f"local-dir:{main / 'student'}"))
    train = open_samples(config.data.train, config.data, config.data.train_split)
    weights, factor = decisions(config, main, train)
    lines = (
        [_data_line("train", train)]
        + ([_data_line("validation", val)] if val else [])
        + _centring_lines(final_row(main))
    )
    return write_report(
        out,
        Report(
            title=f"{config.method}: {config.student.model}" + (f" from {config.teacher.model}" if config.teacher else ""),
            subtitle=f"{metrics[-1]['step']} steps of {config.train.batch} pairs, schedule {_schedule_name(config)}",
            synthetic=config.data.train.startswith("scenes:"),
            scores=tuple(score_rows(config, runs)),
            data=tuple(lines),
            metrics=metrics,
            stages=tuple(stage.name for stage in _stages(config)),
            stage_levels=_stage_levels(config),
            example_weights=weights,
            coupling=_matrix(targets, "pairs/alpha"),
            coupling_factor=factor,
            bridge=_matrix(targets, "pairs/recall"),
            examples=tuple(retrieved(student, val)) if val else (),
            config=(main / "config.yaml").read_text(),
            environment={"cmapkd": cmapkd.__version__, "torch": torch.__version__, "python": sys.version.split()[0],
                         "machine": platform.machine(), "threads": str(torch.get_num_threads())},
            command=command,
        ),
    )  # fmt: skip


def score_rows(config: Config, runs: dict[str, list[Path]]) -> list[ScoreRow]:
    """Teacher first, then each method with its mean and interval over seeds."""
    rows = []
    found = teacher_metrics(config)
    if found:
        rows.append(ScoreRow("teacher", "teacher", found, *_size(load_tower(config.teacher))))  # type: ignore[arg-type]
    for method, folders in runs.items():
        if not folders:
            continue
        figures = [read_result(folder, method, 0).metrics for folder in folders]
        means = {name: interval([row[name] for row in figures]) for name in figures[0]}
        spread = {name: half for name, (_, half) in means.items() if not math.isnan(half)}
        role: Role = "scratch" if method == "scratch" else "ours" if method == "cmapkd" else "baseline"
        size = _size(load_tower(TowerConfig(model=f"local-dir:{folders[0] / 'student'}")))
        rows.append(ScoreRow(method, role, {n: m for n, (m, _) in means.items()}, *size, len(folders), spread))
    return rows


def decisions(
    config: Config, run: Path, samples: Samples, count: int = EXAMPLES
) -> tuple[Matrix | None, Matrix | None]:
    """(level weights of single samples, mean coupling factor) of the run's final policy; None where there are none.

    The samples run from simple to complex, by the length of their captions.
    """
    path = checkpoint.latest(run / "checkpoints")
    if config.policy.name == "uniform" or config.cache.path is None or config.teacher is None or path is None:
        return None, None
    teacher, _, shape = open_cached_teacher(config, samples)
    policy = POLICIES[config.policy.name](config.policy, shape.embedding)
    tensors = checkpoint.load_generation(path)[0]
    policy.load_state_dict({k.removeprefix("policy/"): v for k, v in tensors.items() if k.startswith("policy/")})
    order = np.argsort([np.mean([len(caption.split()) for caption in own]) for own in samples.captions], kind="stable")
    rows = torch.from_numpy(order[np.linspace(0, len(samples) - 1, count).astype(np.int64)])
    captions = torch.from_numpy(samples.caption_offsets[rows.numpy()])
    nothing = torch.empty(0)
    batch = Batch(rows, captions, torch.zeros_like(rows), Inputs(nothing, nothing, nothing))
    weights, coupling = policy(corrupted(teacher, config, samples).teach(batch, (), policy.reads_bridge), 1.0)
    names = tuple(samples.captions[int(i)][0][:40] for i in rows)
    levels = None if weights is None else Matrix(names, LEVELS, tuple(tuple(row) for row in weights.tolist()))
    pairs = None if coupling is None else coupling.mean(0).tolist()
    return levels, None if pairs is None else Matrix(IMAGE_LEVELS, TEXT_LEVELS, tuple(tuple(row) for row in pairs))


def retrieved(tower: Tower, samples: Samples, count: int = EXAMPLES) -> list[Retrieved]:
    """Captions spread over the split, each with the images that the student ranks highest for it."""
    indices = np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int)
    images = torch.cat(
        [
            tower.encode_images(read_images(samples, range(s, min(s + 256, len(samples))), tower.size))
            for s in range(0, len(samples), 256)
        ]
    )
    queries = [samples.captions[i][k % len(samples.captions[i])] for k, i in enumerate(indices)]
    order = (tower.encode_texts(queries) @ images.T).topk(min(SHOWN, len(samples))).indices.tolist()
    out = []
    for query, own, best in zip(queries, indices, order, strict=True):
        pictures = read_images(samples, np.asarray(best), 128).permute(0, 2, 3, 1).numpy()
        out.append(Retrieved(query, tuple(pictures), best.index(own) if own in best else None))
    return out


def _size(tower: Tower) -> tuple[int, float]:
    """(parameters, megabytes in float32)."""
    params = sum(p.numel() for p in tower.native.parameters())
    return params, params * 4 / 1e6


def _stage_levels(config: Config) -> Matrix:
    """Which levels each stage teaches."""
    stages = _stages(config)
    values = tuple(tuple(float(level in stage.levels) for level in LEVELS) for stage in stages)
    return Matrix(tuple(stage.name for stage in stages), LEVELS, values)


def _matrix(targets: Targets | None, name: str) -> Matrix | None:
    if targets is None:
        return None
    return Matrix(IMAGE_LEVELS, TEXT_LEVELS, tuple(tuple(row) for row in targets.get(name).tolist()))


def _centring_lines(row: Mapping[str, Any]) -> list[str]:
    """What was taken from the image embeddings, and the figure without that; nothing of a plain student."""
    if not row.get("centred"):
        return []
    plain = f", plain: mean R@1 {100 * row[name]:.2f}" if (name := f"plain/{KEY}") in row else ""
    return [f"centred: {row['centred']:g} × the image embeddings' mean is taken from them{plain}"]


def _data_line(role: str, samples: Samples) -> str:
    return f"{role}: {samples.name}, {len(samples)} images, {samples.n_captions} captions, {samples.fingerprint()[:12]}"


def _stages(config: Config) -> tuple[StageConfig, ...]:
    return resolve_schedule(config.schedule, METHODS[config.method])


def _schedule_name(config: Config) -> str:
    if config.schedule is None:
        return "of the method"
    return config.schedule if isinstance(config.schedule, str) else "of the config"
