"""The manifest of a finished store, the plan of an unfinished one, and the check that a store belongs to a key."""

from __future__ import annotations

import json
from pathlib import Path

import xxhash

from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError

SCHEMA = 1
AGAIN = "run `cmapkd cache --config …` again"
PLAN = ("rows", "shard_rows", "fields")


def sealed(manifest: dict[str, object]) -> bytes:
    """The bytes of manifest.json: the manifest and its checksum, identical for identical manifests."""
    body = json.dumps(manifest, sort_keys=True).encode()
    return fsio.json_bytes({"manifest": manifest, "xxh3": xxhash.xxh3_64_hexdigest(body)})


def read_manifest(path: Path) -> dict | None:
    """The manifest, or None if there is none. Raises IntegrityError unless the file is byte for byte what was written."""
    try:
        raw = (path / "manifest.json").read_bytes()
    except FileNotFoundError:
        return None
    try:
        manifest = json.loads(raw)["manifest"]
        intact = sealed(manifest) == raw and manifest["schema"] == SCHEMA
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise IntegrityError(
            f"cache {path}: manifest.json is corrupt or of another format; delete the folder and {AGAIN}"
        )
    return manifest


def plan_of(path: Path) -> dict | None:
    """Key and layout that the shards in a folder were written for, or None if unknown; unknown shards are not reused."""
    manifest = read_manifest(path)
    if manifest is not None:
        return {name: value for name, value in manifest.items() if name in ("key", *PLAN)}
    if not (path / "building.json").is_file():
        return None
    try:
        plan = json.loads((path / "building.json").read_bytes())
        return {"key": dict(plan["key"]), **{name: plan[name] for name in PLAN}}
    except (ValueError, KeyError, TypeError):
        raise IntegrityError(f"cache {path}: building.json is corrupt; delete the folder and {AGAIN}") from None


def refuse_other(path: Path, known: dict, wanted: dict) -> None:
    """Raise IntegrityError naming every difference between two plans, with both values."""
    pairs = {name: (known["key"].get(name), wanted["key"].get(name)) for name in {**known["key"], **wanted["key"]}}
    pairs |= {name: (known.get(name), wanted.get(name)) for name in PLAN if name in wanted}
    differing = [
        f"'{name}' is {_brief(old)} there but {_brief(new)} in this run"
        for name, (old, new) in sorted(pairs.items())
        if old != new
    ]
    if differing:
        raise IntegrityError(
            f"cache {path}: {', '.join(differing)}; a cache serves one teacher, transform and data set: give another "
            f"cache.path, or delete the folder and {AGAIN}"
        )


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-12:]}"
