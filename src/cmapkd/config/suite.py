"""A suite: the data sets of the tasks on which models are scored side by side. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from msgspec import UNSET, Meta, defstruct
from msgspec.structs import force_setattr

from cmapkd.config import names
from cmapkd.config.schema import HOLDOUT, refuse_split_of_holdout
from cmapkd.config.section import Positive, Section
from cmapkd.config.text import MAX_BYTES, parse
from cmapkd.config.tree import read
from cmapkd.core.errors import UsageError, did_you_mean

SUITES = Path(__file__).parent.parent / "recipes" / "suites"
Given = TypeVar("Given", bound=Section)

Name = Annotated[str, Meta(pattern=r"^[\w. -]*\Z")]  # names a folder and a heading
Share = Annotated[float, Meta(gt=0.0, lt=1.0)]  # of the images, held out from training
HEAD_SHARE = 0.3
LEFT_OUT: Any = UNSET  # stands for HEAD_SHARE; tells an omitted share from a written one


class ScoredData(Section, frozen=True, kw_only=True):
    """Data of a task without a trained head. data: a path or scenes:N; split, images, classes: as in a run's config.

    protocol: its name (cmapkd list protocols), default the task's first. name: distinguishes several entries of one task.
    """

    name: Name = ""
    data: str
    split: str | None = None
    images: Path | None = None
    classes: Path | None = None
    protocol: str | None = None


class ResultData(Section, frozen=True, kw_only=True):
    """The data behind a result file. holdout: score only the share of images held out from a head with the same share."""

    data: str
    split: str | None = None
    images: Path | None = None
    holdout: Share | None = None


class HeadData(Section, frozen=True, kw_only=True):
    """Data of a task with a head, which is trained on `train` and scored on `val` on top of the frozen tower.

    val: `holdout` scores on a share `holdout` of the images of `train`, always the same ones, and trains on the rest.
    width: width of the head, default its own. head: the VQA head's fusion of image and question.
    """

    name: Name = ""
    train: str
    val: str
    train_split: str | None = None
    val_split: str | None = None
    images: Path | None = None
    holdout: Share = LEFT_OUT
    epochs: Positive = 10.0
    batch: Annotated[int, Meta(ge=1)] = 64
    lr: Positive = 1e-3
    width: Annotated[int, Meta(ge=4)] | None = None
    head: Literal["fusion", "coattention"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_split_of_holdout(self.val, self.val_split)
        if self.val != HOLDOUT and self.holdout is not UNSET:
            raise ValueError(
                f"holdout is a share of `train` and val is '{self.val}'; set val: holdout, or drop holdout"
            )
        if self.holdout is UNSET:
            force_setattr(self, "holdout", HEAD_SHARE)


def _entries(task: str) -> Any:
    """The type of a task's key: data to score on, or data to train a head on."""
    return tuple[HeadData, ...] if task in names.tasks("probe") else tuple[ScoredData, ...]


_Entries: Any = defstruct(
    "_Entries",
    [(task, _entries(task), ()) for task in names.tasks() if task in (*names.tasks("evaluate"), *names.tasks("probe"))],
    bases=(Section,),
    frozen=True,
    kw_only=True,
)


class SuiteConfig(_Entries):
    """The data of each task: one entry, or a list of named ones. A task without data has no column in the table."""

    def __post_init__(self) -> None:
        for task in self.__struct_fields__:
            given = [entry.name for entry in getattr(self, task)]
            if len(set(given)) < len(given):
                raise ValueError(f"{task}: entries of one task need a name each, and no two the same")


def scored_data(data: str | None, split: str | None, images: Path | None, classes: Path | None) -> ScoredData | None:
    """The data named on the command line of eval, or None. Raises UsageError for a split, images or classes without data."""
    if data is not None:
        return ScoredData(data=data, split=split, images=images, classes=classes)
    if lone := [name for name, given in (("split", split), ("images", images), ("classes", classes)) if given]:
        raise UsageError(f"eval --{lone[0]}: of which data? give --data PATH too")
    return None


def head_data(given: dict[str, Any]) -> HeadData:
    """The data named on the command line of train-head. Raises UsageError."""
    return _checked(HeadData, given, "train-head")


def result_data(given: dict[str, Any]) -> ResultData:
    """The data named on the command line of score. Raises UsageError."""
    return _checked(ResultData, given, "score")


def _checked(kind: type[Given], given: dict[str, Any], command: str) -> Given:
    """The section made of a command's arguments: None means not given, and arguments that are no keys are ignored."""
    chosen = {key: given[key] for key in kind.__struct_fields__ if given.get(key) is not None}
    return read(kind, chosen, command)


def read_suite(tree: dict[str, Any], where: str) -> SuiteConfig:
    """The suite of a parsed tree; `where` is its source. Raises UsageError, a line for each error."""
    return read(SuiteConfig, {task: _listed(given) for task, given in tree.items()}, where)


def load_suite(path: Path) -> SuiteConfig:
    """The suite of a YAML file or of a shipped name such as `scenes`. Raises UsageError, a line for each error."""
    shipped = SUITES / f"{path}.yaml"
    if not path.exists() and path.parent == Path() and shipped.is_file():
        path = shipped
    if path.is_dir():
        raise UsageError(f"suite {path}: is a folder; give the YAML file in it")
    if not path.is_file():
        known = sorted(file.stem for file in SUITES.glob("*.yaml"))
        hint = did_you_mean(path.stem, known)
        raise UsageError(f"suite {path}: no such file, and no suite of that name; suites: {', '.join(known)}{hint}")
    with path.open(encoding="utf-8") as file:
        tree = parse(file.read(MAX_BYTES + 1), str(path))
    suite = read_suite(tree, f"config {path}")
    if not any(getattr(suite, task) for task in SuiteConfig.__struct_fields__):
        raise UsageError(f"suite {path}: names no task; give one of {', '.join(SuiteConfig.__struct_fields__)}")
    return suite


def _listed(given: Any) -> Any:
    """A list of entries from one entry, a list of them, or an empty key."""
    return () if given is None else given if isinstance(given, list | tuple) else [given]
