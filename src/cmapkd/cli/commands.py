"""One function per command, from parsed arguments to the implementation. Imports no torch.

`got.config` is a checked config, or None. Each implementation is imported in its command, after the arguments are checked,
so that a typo is reported at once.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from cmapkd.core.errors import UsageError

if TYPE_CHECKING:
    from cmapkd.experiments.plan import RunPlan


def demo(got: Namespace) -> None:
    from cmapkd.experiments.demo import demo

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
    """The `data:` section for a path; None where nothing is there yet. Raises UsageError for data without captions."""
    if not place.startswith("scenes:") and not Path(place).expanduser().exists():
        return None
    from cmapkd.data.inspect.blocks import config_block
    from cmapkd.data.inspect.look import look
    from cmapkd.data.readers import OTHERS

    found = look(place)
    if found.kind in OTHERS:
        raise UsageError(f"init {place}: holds {OTHERS[found.kind]}, not captions; give a captions file")
    return "\n".join(config_block(found))


def data(got: Namespace) -> None:
    from cmapkd.data.inspect.look import inspect

    print(inspect(got.path, got.images))


def cache(got: Namespace) -> None:
    if got.what == "verify":
        if got.estimate:
            raise UsageError("cache verify: writes nothing, so there is no size to estimate; leave --estimate out")
        if got.config.cache.path is None:
            raise UsageError("cache verify: cache.path is not set in the config; give it")
        from cmapkd.store.verify import verify_cache

        print(verify_cache(got.config.cache.path))
        return
    workers = got.config.cache.workers if got.workers is None else got.workers
    if workers < 1:
        raise UsageError(f"cache --workers {workers}: give a number of processes, 1 or more")
    if workers > 1 and not got.estimate:
        from cmapkd.train.setup.cache_workers import cache_by_workers

        print(cache_by_workers(got.config, workers))
        return
    from cmapkd.train.setup.prepare import build_cache

    print(build_cache(got.config, got.estimate))


def distill(got: Namespace) -> None:
    from cmapkd.train.runs.distill import distill

    folder = distill(got.config, got.resume, got.dry_run)
    if not got.dry_run:
        print(folder)


def evaluate(got: Namespace) -> None:
    from cmapkd.config.names import require_evaluated_task
    from cmapkd.config.suite import scored_data

    for task in got.tasks:
        require_evaluated_task(task)
    data = scored_data(got.data, got.split, got.images, got.classes)
    from cmapkd.evaluation.evaluate import evaluate_folder

    evaluate_folder(got.model, data, got.tasks, got.config, got.protocol, got.per_class, got.out, got.teacher)


def compare(got: Namespace) -> None:
    plan = run_plan(got)
    from cmapkd.experiments.compare import compare

    print(compare(got.config, got.methods, plan, got.out))


def ablate(got: Namespace) -> None:
    plan = run_plan(got)
    from cmapkd.experiments.ablate import ablate

    print(ablate(got.config, got.group, plan, got.out))


def run_plan(got: Namespace) -> RunPlan:
    """The runs that --seeds, --budgets, --tune and --jobs ask for."""
    from cmapkd.experiments.plan import RunPlan

    return RunPlan(got.seeds, got.budgets, got.tune, got.jobs)


def train_head(got: Namespace) -> None:
    from cmapkd.config.suite import head_data

    data = head_data(vars(got))
    if got.out.is_file():
        raise UsageError(f"train-head --out {got.out}: is a file; give a folder")
    from cmapkd.evaluation.evaluate import open_model
    from cmapkd.evaluation.train_head import train_head

    print(train_head(got.task, open_model(got.model), data, got.out).said)
    print(got.out)


def score(got: Namespace) -> None:
    from cmapkd.config.suite import result_data

    data = result_data(vars(got))
    from cmapkd.evaluation.score_results import score_results

    score_results(got.task, got.results, data, got.judge, got.out)


def suite(got: Namespace) -> None:
    from cmapkd.config.suite import load_suite

    tasks = load_suite(got.suite)
    from cmapkd.evaluation.suite import suite

    print(suite(got.models, tasks, got.out, got.config))


def report(got: Namespace) -> None:
    _require_run(got.run)
    from cmapkd.report.run_report import report_run

    print(report_run(got.run))


def export(got: Namespace) -> None:
    _require_run(got.run)
    from cmapkd.export.run import export_run

    export_run(got.run, got.to, got.out)


def efficiency(got: Namespace) -> None:
    from cmapkd.evaluation.efficiency import print_efficiency

    print_efficiency(got.models, got.out, got.threads)


def doctor(got: Namespace) -> int:
    from cmapkd.cli.doctor import doctor

    text, works = doctor()
    print(text)
    return 0 if works else 1


def listing(got: Namespace) -> None:
    from cmapkd.cli.listing import LISTS, table

    print(table(LISTS[got.what]()))


def _require_run(run: Path) -> None:
    if not run.is_dir():
        found = "is a file" if run.is_file() else "no such folder"
        raise UsageError(f"run {run}: {found}; give the folder of a finished run")
