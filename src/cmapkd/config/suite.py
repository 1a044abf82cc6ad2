"""A suite: the data of each task on which models are scored side by side. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from msgspec import UNSET, Meta, defstruct
from msgspec.structs import force_setattr

from cmapkd.config import names
from cmapkd.config.schema import HOLDOUT, Positive, Section, refuse_split_of_holdout
from cmapkd.config.text import MAX_BYTES, parse
from cmapkd.config.tree import read
from cmapkd.core.errors import UsageError, did_you_mean

SUITES = Path(__file__).parent.parent / "recipes" / "suites"
Given = TypeVar("Given", bound=Section)

Name = Annotated[str, Meta(pattern=r"^[\w. -]*\Z")]  # of a folder and of a heading
Share = Annotated[float, Meta(gt=0.0, lt=1.0)]  # of images that are kept from training
HEAD_SHARE = 0.3
LEFT_OUT: Any = UNSET  # means HEAD_SHARE; tells HeadData whether a share was given


class ScoredData(Section, frozen=True, kw_only=True):
    """Data to score a model on as it is. data: a path or scenes:N; split, images, classes as in a run's config.

    protocol: by name (cmapkd list protocols), default the task's first. name: distinguishes entries of one task.
    """

    name: Name = ""
    data: str
    split: str | None = None
    images: Path | None = None
    classes: Path | None = None
    protocol: str | None = None


class ResultData(Section, frozen=True, kw_only=True):
    """The truth of a result file. holdout: only the share of the images that a head with the same holdout was scored on."""

    data: str
    split: str | None = None
    images: Path | None = None
    holdout: Share | None = None


class HeadData(Section, frozen=True, kw_only=True):
    """Data of a frozen probe: a head is trained on `train` and scored on `val`, the tower frozen.

    val: holdout trains on the rest of `train` and scores on a share `holdout` of its images, the same ones every time.
    width: of the head, its own default unless given. head: of VQA, how image and question are fused.
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
    """The data that the options of `eval` name; None without --data. Raises UsageError for options that need --data."""
    if data is not None:
        return ScoredData(data=data, split=split, images=images, classes=classes)
    if lone := [name for name, given in (("split", split), ("images", images), ("classes", classes)) if given]:
        raise UsageError(f"eval --{lone[0]}: of which data? give --data PATH too")
    return None


def head_data(given: dict[str, Any]) -> HeadData:
    """The data that the options of `train-head` name. Raises UsageError."""
    return _checked(HeadData, given, "train-head")


def result_data(given: dict[str, Any]) -> ResultData:
    """The data that the options of `score` name. Raises UsageError."""
    return _checked(ResultData, given, "score")


def _checked(kind: type[Given], given: dict[str, Any], command: str) -> Given:
    """The data among a command's arguments; None means not given, and arguments that are no keys are ignored."""
    chosen = {key: given[key] for key in kind.__struct_fields__ if given.get(key) is not None}
    return read(kind, chosen, command)


def read_suite(tree: dict[str, Any], where: str) -> SuiteConfig:
    """The suite of a parsed tree. Raises UsageError with a line per error, each beginning with `where`."""
    return read(SuiteConfig, {task: _listed(given) for task, given in tree.items()}, where)


def load_suite(path: Path) -> SuiteConfig:
    """The suite of a YAML file or of a shipped name (`scenes`). Raises UsageError, a line an error."""
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
    """A list of entries, from one entry or a list; an empty key is no entry."""
    return () if given is None else given if isinstance(given, list | tuple) else [given]
