"""COMMANDS: the help line, arguments and function of every command. Imports no torch."""

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
    """One command. run: gets the parsed arguments, returns an exit code or None.

    overrides: it takes key=value words for --config. several: torchrun or srun may start it in several processes.
    """

    about: str
    run: Callable[[Namespace], int | None]
    arguments: tuple[Argument, ...] = ()
    overrides: bool = False
    several: bool = False


def argument(*flags: str, **settings: Any) -> Argument:
    """An argument as `add_argument` takes it."""
    return flags, settings


def flag(name: str, about: str) -> Argument:
    """An option without a value."""
    return argument(name, action="store_true", help=about)


def out(default: str, about: str = "") -> Argument:
    """The option --out with its default."""
    return argument("--out", type=Path, default=Path(default), help=f"{about}default: {default}")


CONFIG = argument("--config", type=Path, required=True, help="a YAML file or a recipe (cmapkd list recipes)")
OPTIONAL_CONFIG = argument("--config", type=Path, help="a YAML file or recipe with data.val and the teacher")
RUN = argument("run", type=Path, help="a run folder")
DOWNLOAD = flag("--download", "fetch models that are named (ARCHITECTURE/TAG, hf-hub:org/name) and not on this machine")

ARMS = (
    argument("--seeds", type=int, default=3, help="runs of each arm, paired by seed; default: 3"),
    argument(
        "--budgets",
        type=float,
        nargs="+",
        default=[1.0],
        help="training lengths as fractions of the config's; default: 1",
    ),
    flag("--tune", "first choose each arm's strength by four trials on a slice of the train split"),
    argument(
        "--jobs", type=int, default=1, help="runs at a time, one process each; small runs share a GPU well; default: 1"
    ),
)

COMMANDS: dict[str, Command] = {
    "demo": Command(
        "run the whole pipeline on the built-in world and write a report", commands.demo, (out("runs/demo"),)
    ),
    "init": Command(
        "write a commented config for your data",
        commands.init,
        (
            argument("data", nargs="?", default="captions.json", help="your captions file or image folder"),
            out("cmapkd.yaml", "the file to write; "),
        ),
    ),
    "data": Command(
        "data inspect PATH: show the format of your data and the YAML to paste",
        commands.data,
        (
            argument("what", choices=["inspect"], help="the only action"),
            argument("path", help="a captions, questions or instances file, an image folder, or scenes:N"),
            argument("--images", type=Path, help="folder that image names are relative to; default: beside the file"),
        ),
    ),
    "cache": Command(
        "run the teacher once and store its outputs (cache verify: check them)",
        commands.cache,
        (
            DOWNLOAD,
            argument("what", nargs="?", choices=["verify"], help="check every stored file against its SHA-256"),
            CONFIG,
            flag("--estimate", "print the size and write nothing"),
            argument(
                "--workers", type=int, help="processes on this machine that share the work; default: cache.workers"
            ),
        ),
        overrides=True,
        several=True,
    ),
    "distill": Command(
        "train a student",
        commands.distill,
        (
            DOWNLOAD,
            CONFIG,
            flag("--resume", "continue from the newest checkpoint of the run folder"),
            flag("--dry-run", "two real steps, an evaluation and an export; print memory and time, keep nothing"),
            argument("--devices", type=int, help="number of processes, each on a GPU of its own where there are GPUs"),
        ),
        overrides=True,
        several=True,
    ),
    "eval": Command(
        "score a run's student, the teacher or any CLIP model",
        commands.evaluate,
        (
            DOWNLOAD,
            argument("model", help="a run folder, a model's folder, a model name, or `teacher` with --config"),
            argument("--data", help="data to score on; default: data.val of --config or of the run"),
            argument("--split", help="split, where the data has several"),
            argument("--images", type=Path, help="folder that image names are relative to"),
            argument("--classes", type=Path, help="file of class names"),
            argument("--tasks", nargs="+", default=["retrieval"], help="tasks (cmapkd list tasks); default: retrieval"),
            argument(
                "--protocol",
                nargs="+",
                default=[],
                help="protocols (cmapkd list protocols); default: the first of each task",
            ),
            flag("--per-class", "also print the worst and the best classes of zero-shot"),
            argument("--out", type=Path, help="also write all scores, those of each class too, as JSON"),
            argument("--teacher", help="also print the agreement with this model; `teacher` is the run's own teacher"),
            OPTIONAL_CONFIG,
        ),
        overrides=True,
    ),
    "compare": Command(
        "compare methods × seeds on the same data, with intervals",
        commands.compare,
        (
            DOWNLOAD,
            CONFIG,
            argument("--methods", nargs="+", default=["scratch", "kd", "cmapkd"], help="default: scratch kd cmapkd"),
            *ARMS,
            out("runs/compare"),
        ),
        overrides=True,
    ),
    "ablate": Command(
        "compare cmapkd with itself, one thing changed at a time",
        commands.ablate,
        (
            DOWNLOAD,
            argument(
                "group",
                choices=["pyramid", "policy", "losses", "progressive", "robust", "sparse", "all"],
                help="what is changed",
            ),
            CONFIG,
            *ARMS,
            out("runs/ablate"),
        ),
        overrides=True,
    ),
    "train-head": Command(
        "train a VQA, detection or captioning head on a frozen model and score it",
        commands.train_head,
        (
            DOWNLOAD,
            argument("task", choices=list(names.tasks("probe")), help="which task"),
            argument("model", help="a run folder, a model's folder or a model name"),
            argument("--train", required=True, help="questions, instances or captions to train on, or scenes:N:train"),
            argument("--val", required=True, help="data to score on; holdout: a fraction of --train's images"),
            argument("--train-split", help="split of --train, where it has several"),
            argument("--val-split", help="split of --val, where it has several"),
            argument("--images", type=Path, help="folder that image names are relative to"),
            argument("--holdout", type=float, help="fraction for --val holdout; default: 0.3"),
            argument("--epochs", type=float, help="default: 10"),
            argument("--batch", type=int, help="default: 64"),
            argument("--lr", type=float, help="default: 1e-3"),
            argument("--width", type=int, help="width of the head; default: its own"),
            argument("--head", choices=["fusion", "coattention"], help="kind of VQA head; default: fusion"),
            argument("--seed", type=int, help="default: 0"),
            out("runs/head"),
        ),
    ),
    "score": Command(
        "score a result file of VQA answers, boxes or captions",
        commands.score,
        (
            DOWNLOAD,
            argument("task", choices=list(names.tasks("score")), help="the task of the file"),
            argument("results", type=Path, help="a result file in the format of the challenges"),
            argument("--data", required=True, help="ground truth: questions, instances or captions, or scenes:N:val"),
            argument("--split", help="split, where the data has several"),
            argument("--images", type=Path, help="folder that image names are relative to"),
            argument(
                "--holdout",
                type=float,
                help="score only the images that train-head --val holdout with this fraction scored",
            ),
            argument("--judge", help="model for the CLIPScore of captions"),
            argument("--out", type=Path, help="also write the scores as JSON"),
        ),
    ),
    "suite": Command(
        "score models on several tasks in one table",
        commands.suite,
        (
            DOWNLOAD,
            argument("suite", type=Path, help="a YAML file of tasks and data, or a name (cmapkd list suites)"),
            argument(
                "models", nargs="+", help="run folders, models' folders or model names; the first computes CLIPScore"
            ),
            OPTIONAL_CONFIG,
            out("runs/suite"),
        ),
        overrides=True,
    ),
    "report": Command("write a run's report as one offline HTML page", commands.report, (RUN,)),
    "export": Command(
        "write a run's student in other formats",
        commands.export,
        (
            RUN,
            argument("--to", nargs="+", choices=["open_clip", "hf", "onnx"], required=True, help="one or more"),
            argument("--out", type=Path, help="default: inside the run folder"),
        ),
    ),
    "efficiency": Command(
        "measure parameters, FLOPs, latency and memory of models",
        commands.efficiency,
        (
            DOWNLOAD,
            argument(
                "models",
                nargs="+",
                help="model names, run folders or local-dir:FOLDER; the others are compared with the first",
            ),
            argument(
                "--threads", type=int, help="PyTorch threads; 1 is steadiest on a busy machine; default: PyTorch's own"
            ),
            argument("--out", type=Path, help="also write the measurements, one JSON line per model"),
        ),
    ),
    "doctor": Command("show what is installed, what is missing and how to get it", commands.doctor),
    "list": Command(
        "list the names that a config may use",
        commands.listing,
        (
            argument(
                "what",
                choices=[
                    "methods",
                    "policies",
                    "tasks",
                    "protocols",
                    "families",
                    "towers",
                    "schedules",
                    "recipes",
                    "suites",
                ],
                help="what to list",
            ),
        ),
    ),
}
