"""A student's inherited weights: fitted once per student, kept beside the teacher's features, read by every run after."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.core.log import say
from cmapkd.core.types import Inputs, Pair
from cmapkd.data.holdout import split_holdout
from cmapkd.data.loader import Ledger
from cmapkd.data.samples import Samples
from cmapkd.teacher.calibration_file import BATCH, view_pixels
from cmapkd.teacher.layout import cache_key, reserved
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.inherit.start import inherit
from cmapkd.towers.load import load_tower
from cmapkd.towers.named import identity
from cmapkd.towers.sides import kept_side

TOKENS = 65_536  # of images that are fitted on, at most; so many of the teacher's tokens take 270 MB at width 1024
VERSION = "1"


def start_from_teacher(
    config: Config, student: DualEncoder, samples: Samples, teacher: DualEncoder | None = None
) -> None:
    """Set the student's weights to what it inherits (towers/inherit/), in place.

    A finished file in the cache folder is read without the teacher; else `teacher`, or the one that the config names, is
    asked, and the file written. Raises UsageError where nothing can be inherited, IntegrityError for a changed file.
    """
    if config.teacher is None:
        raise UsageError("student.inherit needs teacher.model in the config; give it, or drop student.inherit")
    if identity(config.student)["weights"] != "random":
        raise UsageError(
            f"student.inherit: {config.student.model} has weights of its own; drop student.inherit, or name an architecture"
        )
    path = inherited_file(config, samples)
    if path is not None and path.is_file():
        inherited, refused = _read(path)
        student.native.load_state_dict(inherited, strict=False)  # without a tower that does not inherit
        _tell(refused)
        return
    with torch.random.fork_rng():  # what is drawn after this is the same whether the teacher was built or not
        tower = teacher or load_tower(config.teacher, words=config.cache.words).to(student.device)
    pool, _ = split_holdout(len(samples), reserved(config.data))
    most = config.cache.calibration_samples
    counts = min(most, TOKENS // (1 + tower.shape.grids[2] ** 2)), most
    chosen = [pool[np.unique(np.linspace(0, len(pool) - 1, count).astype(np.int64))] for count in counts]
    mine, theirs = (_inputs(one, config, samples, *chosen) for one in (student, tower))
    say(f"inheriting the student's weights from the teacher, on {len(chosen[0])} images and {len(chosen[1])} captions")
    refused = inherit(student, tower, mine, theirs)
    _tell(refused)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        inherited = inherited_weights(student, refused)
        about = {"sha256": _digest(inherited), "image": refused.image, "text": refused.text}
        fsio.write_bytes(path, _sorted_header(save(inherited, metadata=about)))


def inherited_weights(student: DualEncoder, refused: Pair[str]) -> dict[str, Tensor]:
    """The student's tensors without those of a tower that did not inherit; what belongs to no tower goes with the texts."""
    image = {id(value) for value in student.image.native.state_dict(keep_vars=True).values()}
    return {
        name: value.detach().cpu().contiguous()
        for name, value in student.native.state_dict(keep_vars=True).items()
        if not (refused.image if id(value) in image else refused.text)
    }


def inherited_file(config: Config, samples: Samples) -> Path | None:
    """The file of this student's inherited weights in the cache folder; None without a cache."""
    if config.cache.path is None:
        return None
    key = (
        cache_key(config.teacher, config.data, config.cache, samples)
        | identity(config.student)
        | ({"kept": side} if (side := kept_side(config.student, config.teacher)) else {})
        | {"inherited": VERSION}
    )
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return config.cache.path / f"inherited-{digest}.safetensors"


def _sorted_header(file: bytes) -> bytes:
    """A safetensors file with its metadata in the order of their names, so that equal weights are equal files."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[end:]


def _tell(refused: Pair[str]) -> None:
    for what, why in (("image", refused.image), ("text", refused.text)):
        if why:
            say(f"student.inherit: the {what} tower begins at random: {why}")


def _read(path: Path) -> tuple[dict[str, Tensor], Pair[str]]:
    """(the weights, why a tower did not inherit)."""
    wrong = IntegrityError(f"{path}: corrupt; delete it, it is made again")
    try:
        with safe_open(str(path), "pt") as file:
            state, known = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception:
        raise wrong from None
    if known.get("sha256") != _digest(state):
        raise wrong
    return state, Pair(known.get("image", ""), known.get("text", ""))


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].numpy().tobytes())
    return digest.hexdigest()


def _inputs(tower: DualEncoder, config: Config, samples: Samples, images: np.ndarray, texts: np.ndarray) -> Inputs:
    """The same views and captions as `tower` reads them."""
    captions, views = samples.flat_captions(), config.data.views
    rows = images * views + images % views
    parts = np.array_split(rows, max(1, -(-len(rows) // BATCH)))
    pixels = torch.cat([view_pixels(samples, config.data, part, tower.size, Ledger()) for part in parts])
    first, counts = samples.caption_spans(texts)
    ids, words = tower.tokenizer([captions[k] for k in first + np.arange(len(texts)) % counts])
    return Inputs(pixels.to(tower.device), ids.to(tower.device), words.to(tower.device))
