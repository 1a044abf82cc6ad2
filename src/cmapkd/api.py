"""`cmapkd.distill`: the same run as `cmapkd distill`, from keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Section = Mapping[str, Any]


def distill(
    teacher: str | Section | None,
    student: str | Section | Any,
    data: str | Path | Section,
    val: str | Path | None = None,
    run: str | Path = "runs/student",
    method: str = "cmapkd",
    steps: int | None = None,
    batch: int | None = None,
    cache: str | Path | Section | None = None,
    taps: Sequence[str] | None = None,
    image: Section | None = None,
    resume: bool = False,
    **settings: Any,
) -> Path:
    """Distil `teacher` into `student` on `data` and return the run folder; its `student/` loads in open_clip.

    teacher, student: as in a config's model key (`ViT-L-14:/path.safetensors`, `local-dir:PATH`, a known name), or their
    whole section (`{"model": …, "tokenizer": "teacher"}`); teacher=None for methods without a teacher. data, val: captions
    files or folders, or the whole section; cache: folder of the teacher's outputs (written first if absent), None runs
    the teacher in every step. steps: 1000 unless train has steps or epochs; settings: other config sections by name, as
    dicts.
    student may also be a torch module, an image backbone of your own, which keeps the teacher's text tower. taps: names of its
    modules whose outputs are P2..P5; without them it has a method levels(pixels) that returns (P2, P3, P4, P5, embedding). image
    says how it is read: {"size": side of its images, "mean", "std", "channels_last": whether its maps are [B, H, W, C]}.
    The run's config does not hold the module: resume=True takes it again.
    Raises the errors of cmapkd.core.errors.
    """
    if hasattr(student, "named_modules"):
        from cmapkd.towers.sources.module import SCHEME, given

        reading = dict(image or {}) | ({} if taps is None else {"taps": tuple(taps)})
        backbone, name = _backbone(student, reading), f"{SCHEME}{type(student).__name__}"
        with given(backbone):
            return distill(teacher, name, data, val, run, method, steps, batch, cache, resume=resume, **settings)
    from cmapkd.config.load import check
    from cmapkd.train.runs.distill import distill as train
    from cmapkd.train.setup.prepare import build_cache

    tree: dict[str, Any] = {
        "run": str(run),
        "method": method,
        "data": _section(data, "train"),
        "teacher": None if teacher is None else _section(teacher, "model"),
        "student": _section(student, "model"),
        "cache": {} if cache is None else _section(cache, "path"),
        **settings,
    }
    if val is not None:
        tree["data"]["val"] = str(val)
    if isinstance(length := settings.get("train", {}), Mapping):
        given = {key: value for key, value in (("steps", steps), ("batch", batch)) if value is not None}
        tree["train"] = {**length, **given}
        if not {"steps", "epochs"} & set(tree["train"]):
            tree["train"]["steps"] = 1000
    config = check(tree, "arguments of distill()")
    if config.cache.path is not None and config.teacher is not None:
        build_cache(config)
    return train(config, resume)


def load(folder: str | Path, image: Any = None, **reading: Any) -> Any:
    """A trained student (a DualEncoder: encode_images, encode_texts) from its folder, or from that of its run.

    image: the module of a student that was trained around one; its taps, size, mean and std are those of the training.
    Raises UsageError where the folder or the module does not fit.
    """
    import json

    from cmapkd.config.schema import TowerConfig
    from cmapkd.towers.load import load_tower
    from cmapkd.towers.module_folder import CONFIG, open_module

    place = Path(folder)
    place = place / "student" if (place / "student").is_dir() else place
    if image is None:
        return load_tower(TowerConfig(model=f"local-dir:{place}")).eval()
    known: dict[str, Any] = {}
    if (place / CONFIG).is_file():
        stored = json.loads((place / CONFIG).read_text())["backbone"]
        known = {"size": stored["image_size"], **{key: stored[key] for key in ("taps", "mean", "std", "channels_last")}}
    return open_module(place, _backbone(image, {**known, **reading})).eval()


def _backbone(module: Any, reading: Section | None) -> Any:
    """The user's module and how it is read. Raises UsageError for an unknown key."""
    from dataclasses import fields

    from cmapkd.core.errors import UsageError, did_you_mean
    from cmapkd.towers.sources.module import Backbone

    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in (reading or {}).items()
    }
    known = [field.name for field in fields(Backbone) if field.name not in ("module", "source")]
    if wrong := [key for key in given if key not in known]:
        raise UsageError(f"image.{wrong[0]}: no such key; known: {', '.join(known)}{did_you_mean(wrong[0], known)}")
    return Backbone(module, **given)


def _section(given: Any, key: str) -> Any:
    """A config section: as given, or made of one key from a plain value."""
    if isinstance(given, Mapping):
        return dict(given)
    return {key: str(given) if isinstance(given, Path) else given}
