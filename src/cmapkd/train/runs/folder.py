"""The folder of a run: begun, refused, or made ready to resume."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import structs

from cmapkd.config.load import dump_config, load_config
from cmapkd.config.schema import Config, TrainConfig
from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError, UsageError

LOCK = ".lock"


def refuse_folder(config: Config, resume: bool) -> None:
    """Raise for a run folder that cannot be begun, or not be resumed."""
    folder = config.run
    if folder.is_file():
        raise UsageError(f"run {folder}: is a file; give another run folder")
    if not resume and folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise UsageError(
            f"run {folder}: already exists; a new run never overwrites an old one: --resume it or give another run"
        )
    if resume and not (folder / "config.yaml").is_file():
        raise UsageError(f"run {folder}: nothing to resume (no config.yaml); start it without --resume")
    if resume:
        refuse_other_config(folder, config, "cannot resume, ", "use the run's own config.yaml")


def prepare_folder(config: Config, resume: bool) -> Path:
    """The run folder with its config; what an interrupted write left is gone."""
    refuse_folder(config, resume)
    folder = config.run
    folder.mkdir(parents=True, exist_ok=True)
    fsio.sweep_temporaries(folder)
    fsio.write_bytes(folder / "config.yaml", dump_config(config).encode())
    if resume and (folder / "metrics.jsonl").is_file():
        fsio.repair_jsonl(folder / "metrics.jsonl")
    return folder


def refuse_other_config(folder: Path, config: Config, what: str, way_out: str) -> None:
    """Raise IntegrityError where a run's config is not `config`; keys that are new since have their defaults."""
    was, config = (elsewhere(one) for one in (load_config(folder / "config.yaml"), config))
    if was == config:
        return
    old, new = dict(leaves(dump_config(was))), leaves(dump_config(config))
    lost = [(key, "not set") for key in old if key not in dict(new)]
    key, value = next((k, v) for k, v in [*new, *lost] if old.get(k) != v)
    raise IntegrityError(f"run {folder}: {what}'{key}' is now {value} but was {old.get(key, 'not set')}; {way_out}")


def elsewhere(config: Config) -> Config:
    """The config without what may be another one when a run goes on: on how many devices, and how long one waits for another."""
    same = TrainConfig(steps=1)
    return structs.replace(config, train=structs.replace(config.train, devices=same.devices, timeout=same.timeout))


def trim_metrics(path: Path, step: int) -> None:
    """Drop log lines after `step`, so that a resumed run writes none twice."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text().splitlines() if json.loads(line).get("step", 0) <= step]
    fsio.write_bytes(path, "".join(f"{line}\n" for line in kept).encode())


def leaves(text: str) -> list[tuple[str, str]]:
    """(dotted key, value) of each leaf of a dumped config."""
    import yaml

    def walk(prefix: str, node: object) -> list[tuple[str, str]]:
        if isinstance(node, dict):
            return [
                leaf for key, value in node.items() for leaf in walk(f"{prefix}.{key}" if prefix else str(key), value)
            ]
        return [(prefix, str(node))]

    return walk("", yaml.safe_load(text))
