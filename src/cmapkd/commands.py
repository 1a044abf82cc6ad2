"""COMMANDS: each command's line in the help, its arguments, and the few lines that call it. Imports no torch.

Implementations are imported when they are called, after the config is checked: a typo is answered at once.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmapkd.core.errors import UsageError

if TYPE_CHECKING:
    from cmapkd.config.schema import Config

Argument = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Command:
    """run gets the parsed arguments and returns an exit code or None; overrides: whether it takes key=value."""

    about: str
    run: Callable[[Namespace], int | None]
    arguments: tuple[Argument, ...] = ()
    overrides: bool = False


def argument(*names: str, **settings: Any) -> Argument:
    return names, settings


def flag(name: str, about: str) -> Argument:
    return argument(name, action="store_true", help=about)


def folder(default: str, about: str = "") -> Argument:
    return argument("--out", type=Path, default=Path(default), help=f"{about}default: {default}")


def config(got: Namespace) -> Config:
    """The config that the arguments name, with their overrides."""
    from cmapkd.config.load import load_config

    return load_config(got.config, got.overrides)


def demo(got: Namespace) -> None:
    from cmapkd.bench.demo import demo

    print(demo(got.out))


def init(got: Namespace) -> None:
    from cmapkd.config.starter import starter
    from cmapkd.core import fsio

    if got.out.exists():
        raise UsageError(f"{got.out}: already exists and is not overwritten; give another --out")
    if not got.out.parent.is_dir():
        raise UsageError(f"{got.out.parent}: no such folder; make it first")
    found = found_data(got.data)
    fsio.write_bytes(got.out, starter(got.data, str(got.out), found).encode())
    if found is None:
        print(f"{got.data}: no such file or folder yet; put it there, or change data.train")
    print(f"wrote {got.out}; read it, then: cmapkd distill --config {got.out} --dry-run")


def found_data(place: str) -> str | None:
    """The data section of what lies at a path; None where nothing does yet. Raises DataError for what is no captions."""
    if not place.startswith("scenes:") and not Path(place).expanduser().exists():
        return None
    from cmapkd.data.inspect import look
    from cmapkd.data.inspect_blocks import config_block
    from cmapkd.data.readers import OTHERS

    found = look(place)
    if found.kind in OTHERS:
        raise UsageError(f"init {place}: holds {OTHERS[found.kind]}, not captions; give a captions file")
    return "\n".join(config_block(found))


def data(got: Namespace) -> None:
    from cmapkd.data.inspect import inspect

    print(inspect(got.path, got.images))


def cache(got: Namespace) -> None:
    checked = config(got)
    from cmapkd.cache.build import build_cache

    print(build_cache(checked, got.estimate))


def distill(got: Namespace) -> None:
    checked = config(got)
    from cmapkd.train.run import distill

    folder = distill(checked, got.resume, got.dry_run)
    if not got.dry_run:
        print(folder)


def evaluate(got: Namespace) -> None:
    from cmapkd.config.suite import scored_data

    checked = None if got.config is None else config(got)
    data = scored_data(got.data, got.split, got.images, got.classes)
    from cmapkd.bench.evaluate import evaluate_folder

    evaluate_folder(got.model, data, got.tasks, checked, got.protocol, got.per_class, got.out)


def compare(got: Namespace) -> None:
    checked = config(got)
    from cmapkd.bench.compare import compare

    print(compare(checked, got.methods, got.seeds, got.out, got.budgets, got.tune, got.jobs))


def ablate(got: Namespace) -> None:
    checked = config(got)
    from cmapkd.bench.compare import ablate

    print(ablate(checked, got.group, got.seeds, got.out, got.budgets, got.tune, got.jobs))


def train_head(got: Namespace) -> None:
    from cmapkd.config.suite import head_data

    data = head_data({key: value for key, value in vars(got).items() if value is not None})
    if got.out.is_file():
        raise UsageError(f"train-head --out {got.out}: is a file; give a folder")
    from cmapkd.bench.evaluate import open_model
    from cmapkd.bench.heads import train_head

    print(train_head(got.task, open_model(got.model), data, got.out).said)
    print(got.out)


def score(got: Namespace) -> None:
    from cmapkd.config.suite import ScoredData

    data = ScoredData(data=got.data, split=got.split, images=got.images)
    from cmapkd.bench.score_results import score_results

    score_results(got.task, got.results, data, got.judge, got.out)


def suite(got: Namespace) -> None:
    from cmapkd.config.suite import load_suite

    tasks, checked = load_suite(got.suite), None if got.config is None else config(got)
    from cmapkd.bench.suite import suite

    print(suite(got.models, tasks, got.out, checked))


def report(got: Namespace) -> None:
    _needs_run(got.run)
    from cmapkd.bench.report_run import report_run

    print(report_run(got.run))


def export(got: Namespace) -> None:
    _needs_run(got.run)
    from cmapkd.export.run import export_run

    export_run(got.run, got.to, got.out)


def efficiency(got: Namespace) -> None:
    from cmapkd.bench.efficiency import print_efficiency

    print_efficiency(got.models, got.out, got.threads)


def doctor(got: Namespace) -> int:
    from cmapkd.doctor import doctor

    text, works = doctor()
    print(text)
    return 0 if works else 1


def listing(got: Namespace) -> None:
    from cmapkd.listing import LISTS, table

    print(table(LISTS[got.what]()))


def _needs_run(run: Path) -> None:
    if not run.is_dir():
        what = "is a file" if run.is_file() else "no such folder"
        raise UsageError(f"run {run}: {what}; give the folder of a finished run")


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
    "demo": Command("the whole pipeline on the built-in world, with a report at the end", demo, (folder("runs/demo"),)),
    "init": Command(
        "write a commented config for your data",
        init,
        (
            argument("data", nargs="?", default="captions.json", help="your captions file or image folder"),
            folder("cmapkd.yaml", "the file to write; "),
        ),
    ),
    "data": Command(
        "data inspect PATH: what is this data, and the YAML to paste",
        data,
        (
            argument("what", choices=["inspect"], help="what to do"),
            argument("path", help="a captions, questions or instances file, an image folder, or scenes:N"),
            argument("--images", type=Path, help="folder that image names are relative to; default: found beside"),
        ),
    ),
    "cache": Command(
        "run the teacher once and store its features",
        cache,
        (CONFIG, flag("--estimate", "print the size and write nothing")),
        overrides=True,
    ),
    "distill": Command(
        "train a student",
        distill,
        (
            CONFIG,
            flag("--resume", "go on from the newest checkpoint of the run folder"),
            flag("--dry-run", "two real steps, an evaluation and an export; says memory and time, keeps nothing"),
        ),
        overrides=True,
    ),
    "eval": Command(
        "score a run's student, the teacher, or any CLIP",
        evaluate,
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
            OPTIONAL_CONFIG,
        ),
        overrides=True,
    ),
    "compare": Command(
        "methods × seeds on the same data, with intervals",
        compare,
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
        ablate,
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
        "a VQA, detection or captioning head on a frozen model, and its scores",
        train_head,
        (
            argument("task", choices=["vqa", "detection", "captioning"], help="which head"),
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
        score,
        (
            argument("task", choices=["vqa", "detection", "captioning"], help="which"),
            argument("results", type=Path, help="a result file as the challenges take it"),
            argument("--data", required=True, help="questions, instances or captions file or folder, or scenes:N:val"),
            argument("--split", help="split of data that holds several"),
            argument("--images", type=Path, help="folder that image names are relative to"),
            argument("--judge", help="of captioning: a model for CLIPScore"),
            argument("--out", type=Path, help="also write the figures as JSON"),
        ),
    ),
    "suite": Command(
        "models side by side on up to five tasks, one table",
        suite,
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
    "report": Command("a run as one offline HTML page", report, (RUN,)),
    "export": Command(
        "a run's student in other formats",
        export,
        (
            RUN,
            argument("--to", nargs="+", choices=["open_clip", "hf", "onnx"], required=True, help="one or more"),
            argument("--out", type=Path, help="default: inside the run folder"),
        ),
    ),
    "efficiency": Command(
        "parameters, FLOPs, latency and memory of models",
        efficiency,
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
    "doctor": Command("what this machine has, what is missing and how to get it", doctor),
    "list": Command(
        "names that a config may use",
        listing,
        (
            argument(
                "what",
                choices=["methods", "policies", "tasks", "protocols", "towers", "schedules", "recipes", "suites"],
                help="what to list",
            ),
        ),
    ),
}
