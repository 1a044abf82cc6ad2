"""The YAML blocks printed by `cmapkd data inspect`: `data:` for a config, and the entries for a suite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

HELD_OUT = ("val", "valid", "dev", "validation", "val2017", "val2014", "test")
ENTRIES = {
    "vqa": ("vqa",),
    "instances": ("detection",),
    "folder": ("zeroshot",),
    "scenes": (),
}  # all other formats hold captions


@dataclass(frozen=True)
class Found:
    """The data at a path. extra: config keys that differ from their defaults; splits: names, with counts if known.

    images: the folder of images given by the user, None where they are found automatically. bare: splits of questions
    without answers ("" for a file without a split), which cannot be scored. beside: other kinds of data in the folder.
    """

    kind: str
    path: Path
    extra: dict[str, str] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    images: Path | None = None
    bare: frozenset[str] = frozenset()
    beside: tuple[Found, ...] = ()

    @property
    def first(self) -> str | None:
        """The split to inspect and to train on; one without answers only if there is no other."""
        names = [name for name in ("train", *self.splits) if name in self.splits]
        return min(names, key=lambda name: name in self.bare, default=None)

    @property
    def held(self) -> str | None:
        known = [name for name in HELD_OUT if name in self.splits and name not in self.bare]
        return next((name for name in known if name != self.first), None)


def blocks(found: Found) -> Iterable[str]:
    """The lines of both blocks, each with a heading; questions and boxes, which a run cannot train on, get no `data:`."""
    if found.kind not in ("vqa", "instances"):
        yield from ("", "to paste into a config:", *config_block(found))
    if entries := [line for each in (found, *found.beside) for line in suite_block(each)]:
        yield from ("", "to paste into a suite (cmapkd suite FILE MODEL …):", *entries)


def config_block(found: Found) -> Iterable[str]:
    """The `data:` block; train and val are one path where it holds both splits, else a share is held out."""
    yield "data:"
    yield f"  train: {quoted(str(found.path))}"
    yield from _images(found)
    yield from (f"  {key}: {quoted(value)}" for key, value in found.extra.items())
    if found.held:
        yield f"  val: {quoted(str(found.path))}"
    elif found.kind != "scenes":
        yield "  val: holdout"
        yield "  holdout: 0.1"
    if found.first and (found.held or len(found.splits) > 1):
        yield f"  train_split: {found.first}"
    if found.held:
        yield f"  val_split: {found.held}"


def suite_block(found: Found) -> Iterable[str]:
    """The suite entry of each task that can be scored on the data."""
    place, several = quoted(str(found.path)), len(found.splits) > 1
    if (found.first or "") in found.bare:
        return
    for task in ENTRIES.get(found.kind, ("retrieval", "captioning") if not found.extra else ()):
        yield f"{task}:"
        if task in ("retrieval", "zeroshot"):
            yield f"  data: {place}"
            yield from _images(found)
            yield from [f"  split: {found.held or found.first}"] if found.held or several else []
            continue
        yield f"  train: {place}"
        yield f"  val: {place if found.held else 'holdout'}"
        yield from _images(found)
        yield from [f"  train_split: {found.first}"] if found.held or several else []
        yield from [f"  val_split: {found.held}"] if found.held else []


def _images(found: Found) -> list[str]:
    return [] if found.images is None else [f"  images: {quoted(str(found.images))}"]


def quoted(value: str) -> str:
    """The value as a YAML scalar, quoted where needed."""
    plain = value and value.replace("/", "").replace(".", "").replace("_", "").replace("-", "").isalnum()
    return value if plain and not value.startswith("-") else "'" + value.replace("'", "''") + "'"
