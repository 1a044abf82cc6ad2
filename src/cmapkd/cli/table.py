"""COMMANDS: each command's line in the help, its arguments, and the function behind it. Imports no torch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmapkd.cli import commands
from cmapkd.config import names

Argument = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Command:
    """run gets the parsed arguments and returns an exit code or None; overrides: whether it takes key=value."""

    about: str
    run: Callable[[Namespace], int | None]
    arguments: tuple[Argument, ...] = ()
    overrides: bool = False


def argument(*flags: str, **settings: Any) -> Argument:
    return flags, settings


def flag(name: str, about: str) -> Argument:
    return argument(name, action="store_true", help=about)


def folder(default: str, about: str = "") -> Argument:
    return argument("--out", type=Path, default=Path(default), help=f"{about}default: {default}")


CONFIG = argument("--config", type=Path, required=True, help="a YAML file, or a recipe (cmapkd list recipes)")
OPTIONAL_CONFIG = argument("--config", type=Path, help="a YAML file or recipe; gives data.val and the teacher")
RUN = argument("run", type=Path, help="a run folder")

ARMS = (
    argument("--seeds", type=int, default=3, help="runs of each arm, paired by seed; default: 3"),
    argument("--budgets", type=float, nargs="+", default=[1.0], help="shares of the config's length; default: 1"),
    flag("--tune", "first four trials of each arm's strength, on a slice of the train split"),
    argument("--jobs", type=int, default=1, help="runs at a time, each a process; several fill a GPU; default: 1"),
)

COMMANDS: dict[str, Command] = {
    "demo": Command(
        "the whole pipeline on the built-in world, with a report at the end", commands.demo, (folder("runs/demo"),)
    ),
    "init": Command(
        "write a commented config for your data",
        commands.init,
        (
            argument("data", nargs="?", default="captions.json", help="your captions file or image folder"),
            folder("cmapkd.yaml", "the file to write; "),
        ),
    ),
    "data": Command(
        "data inspect PATH: what is this data, and the YAML to paste",
        commands.data,
        (
            argument("what", choices=["inspect"], help="what to do"),
            argument("path", help="a captions, questions or instances file, an image folder, or scenes:N"),
            argument("--images", type=Path, help="folder that image names are relative to; default: found beside"),
        ),
    ),
    "cache": Command(
        "run the teacher once and store its features",
        commands.cache,
        (CONFIG, flag("--estimate", "print the size and write nothing")),
        overrides=True,
    ),
    "distill": Command(
        "train a student",
        commands.distill,
        (
            CONFIG,
            flag("--resume", "go on from the newest checkpoint of the run folder"),
            flag("--dry-run", "two real steps, an evaluation and an export; says memory and time, keeps nothing"),
        ),
        overrides=True,
    ),
    "eval": Command(
        "score a run's student, the teacher, or any CLIP",
        commands.evaluate,
        (
            argument("model", help="a run folder, an open_clip folder, a model name, or `teacher` with --config"),
            argument("--data", help="what to score on; default: data.val of --config, or of the run"),
            argument("--split", help="split of data that holds several"),
            argument("--images", type=Path, help="folder that image names are relative to"),
            argument("--classes", type=Path, help="file of class names"),
            argument("--tasks", nargs="+", default=["retrieval"], help="cmapkd list tasks; default: retrieval"),
            argument("--protocol", nargs="+", default=[], help="cmapkd list protocols; default: each task's first"),
            flag("--per-class", "name the worst and the best classes of zero-shot"),
            argument("--out", type=Path, help="also write the scores, every class among them, as JSON"),
            argument(
                "--teacher", help="also the agreement with this model: equal top-1 hits, correlation of similarities"
            ),
            OPTIONAL_CONFIG,
        ),
        overrides=True,
    ),
    "compare": Command(
        "methods × seeds on the same data, with intervals",
        commands.compare,
        (
            CONFIG,
            argument("--methods", nargs="+", default=["scratch", "kd", "cmapkd"], help="default: scratch kd cmapkd"),
            *ARMS,
            folder("runs/compare"),
        ),
        overrides=True,
    ),
    "ablate": Command(
        "cmapkd against itself with one thing changed",
        commands.ablate,
        (
            argument(
                "group",
                choices=["pyramid", "policy", "losses", "progressive", "robust", "sparse", "all"],
                help="what is varied",
            ),
            CONFIG,
            *ARMS,
            folder("runs/ablate"),
        ),
        overrides=True,
    ),
    "train-head": Command(
        "train a task's head on a frozen model and score it",
        commands.train_head,
        (
            argument("task", choices=list(names.tasks("probe")), help="which task"),
            argument("model", help="a run folder, an open_clip folder or a model name"),
            argument("--train", required=True, help="questions, instances or captions to train on, or scenes:N:train"),
            argument("--val", required=True, help="what the head is scored on; holdout: a share of --train's images"),
            argument("--train-split", help="split of a file that holds several"),
            argument("--val-split", help="the same for --val"),
            argument("--images", type=Path, help="folder that image names are relative to"),
            argument("--holdout", type=float, help="share for --val holdout; default: 0.3"),
            argument("--epochs", type=float, help="default: 10"),
            argument("--batch", type=int, help="default: 64"),
            argument("--lr", type=float, help="default: 1e-3"),
            argument("--width", type=int, help="of the head; default: its own"),
            argument("--head", choices=["fusion", "coattention"], help="of vqa; default: fusion"),
            argument("--seed", type=int, help="default: 0"),
            folder("runs/head"),
        ),
    ),
    "score": Command(
        "a result file of VQA answers, boxes or captions against the truth",
        commands.score,
        (
            argument("task", choices=list(names.tasks("score")), help="which task"),
            argument("results", type=Path, help="a result file as the challenges take it"),
            argument("--data", required=True, help="questions, instances or captions file or folder, or scenes:N:val"),
            argument("--split", help="split of data that holds several"),
            argument("--images", type=Path, help="folder that image names are relative to"),
            argument("--holdout", type=float, help="only the share of images that train-head --val holdout scored"),
            argument("--judge", help="of captioning: a model for CLIPScore"),
            argument("--out", type=Path, help="also write the figures as JSON"),
        ),
    ),
    "suite": Command(
        "models side by side on several tasks, one table",
        commands.suite,
        (
            argument("suite", type=Path, help="a YAML file that names tasks and data, or `scenes`"),
            argument(
                "models", nargs="+", help="run folders, open_clip folders, model names; the first judges CLIPScore"
            ),
            OPTIONAL_CONFIG,
            folder("runs/suite"),
        ),
        overrides=True,
    ),
    "report": Command("a run as one offline HTML page", commands.report, (RUN,)),
    "export": Command(
        "a run's student in other formats",
        commands.export,
        (
            RUN,
            argument("--to", nargs="+", choices=["open_clip", "hf", "onnx"], required=True, help="one or more"),
            argument("--out", type=Path, help="default: inside the run folder"),
        ),
    ),
    "efficiency": Command(
        "parameters, FLOPs, latency and memory of models",
        commands.efficiency,
        (
            argument(
                "models", nargs="+", help="model names, run folders or local-dir:FOLDER; the first is compared with"
            ),
            argument(
                "--threads", type=int, help="of PyTorch; on a busy machine 1 is steadiest; default: its own choice"
            ),
            argument("--out", type=Path, help="also write the figures, a JSON line a model"),
        ),
    ),
    "doctor": Command("what this machine has, what is missing and how to get it", commands.doctor),
    "list": Command(
        "names that a config may use",
        commands.listing,
        (
            argument(
                "what",
                choices=["methods", "policies", "tasks", "protocols", "towers", "schedules", "recipes", "suites"],
                help="what to list",
            ),
        ),
    ),
}
