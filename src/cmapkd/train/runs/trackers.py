"""TRACKERS: the rows of metrics.jsonl sent to a tool of the user's as well. The file stays what counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cmapkd.config.schema import Config
from cmapkd.config.tree import plain
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say

Row = dict[str, object]
PROJECT = "cmapkd"


def open_trackers(config: Config) -> list[Callable[[Row], None]]:
    """A function of a row for each of `train.track`. Raises UsageError for one that is not installed.

    One that fails later is said once and left out: no run ends because of what only looks at it.
    """
    found = []
    for name in config.train.track:
        try:
            found.append(_harmless(name, TRACKERS[name](config)))
        except ImportError:
            raise UsageError(f"train.track: {name} is not installed; pip install 'cmapkd[track]', or drop it") from None
    return found


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row by tag, `train/loss/fd`; its kind and step are no figures."""
    numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool) and k != "step"}
    return {f"{row.get('kind', 'train')}/{name}": float(value) for name, value in numbers.items()}


def _tensorboard(config: Config) -> Callable[[Row], None]:
    """Event files in the run folder: tensorboard --logdir RUN."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(config.run / "tensorboard"))

    def write(row: Row) -> None:
        for tag, value in scalars(row).items():
            writer.add_scalar(tag, value, row.get("step", 0))
        if row.get("kind") != "train":
            writer.flush()

    return write


def _wandb(config: Config) -> Callable[[Row], None]:
    """A run of the user's account, or with WANDB_MODE=offline of a folder in the run's."""
    import wandb  # pyright: ignore[reportMissingImports]

    run = wandb.init(project=PROJECT, name=config.run.name, dir=str(config.run), config=plain(config))
    return lambda row: run.log(scalars(row), step=row.get("step", 0))


TRACKERS: dict[str, Callable[[Config], Callable[[Row], None]]] = {"tensorboard": _tensorboard, "wandb": _wandb}


def _harmless(name: str, write: Callable[[Row], None]) -> Callable[[Row], None]:
    works = True

    def guarded(row: Row) -> None:
        nonlocal works
        if works:
            try:
                write(row)
            except Exception as error:
                works = False
                say(f"warning: {name} failed and gets no more rows ({error}); metrics.jsonl has them all")

    return guarded
