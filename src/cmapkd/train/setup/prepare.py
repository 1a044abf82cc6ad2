"""`cmapkd cache`: everything that is computed once before runs: the teacher's features, the student's start, its pixels."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.claims import Claims
from cmapkd.core.device import pick_device
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.data.pixels import write_pixels
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.pyramid.targets import Targets
from cmapkd.store.folder_check import check_folder
from cmapkd.teacher.build import feature_bytes, seal_features, write_features
from cmapkd.teacher.calibration_file import calibrate_cache, open_targets
from cmapkd.teacher.layout import cache_key
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower
from cmapkd.towers.named import image_size, warn_of_random
from cmapkd.train.setup.start_student import inherited_file, start_from_teacher


def build_cache(config: Config, estimate_only: bool = False) -> Path:
    """Write (or finish) the cache of `config.cache.path` and return its folder."""
    folder = config.cache.path
    if folder is None or config.teacher is None:
        raise UsageError("cmapkd cache needs teacher.model and cache.path in the config; give both")
    samples = open_samples(config.data.train, config.data, config.data.train_split)
    for note in samples.notes:
        say(f"data: {note}")
    warn_of_random(config.teacher, "teacher.model")
    tower = load_tower(config.teacher, words=config.cache.words)
    size, sentence = feature_bytes(config, samples, tower)
    say(sentence)
    if config.cache.pixels:
        side = image_size(config.student)
        pixels = len(samples) * config.data.views * 3 * side * side
        say(f"and the views' pixels at {side}×{side}: {pixels / 1e6:.1f} MB")
        size += pixels
    if estimate_only:
        return folder
    check_folder(folder, size)
    tower.to(worker_device(config.train.device))
    check = (folder / "teacher.json").is_file()  # it was finished before: verify it
    shared = Claims(folder / "build")
    targets = _calibrated(config, samples, tower, shared)
    _inherited(config, samples, tower, shared)
    ledger = write_features(config, samples, tower, targets.to(tower.device), check)
    if config.cache.pixels:
        write_pixels(samples, config.data, config.cache, image_size(config.student), check)
    with shared.turn("seal", f"the end of {folder}"):
        _sweep(folder)
        seal_features(config, samples, tower, check)
    if ledger.quarantined:
        say(f"{len(ledger.quarantined)} unreadable images, which are not trained on: {ledger.shown()}")
    say(f"cache complete and verified: {folder}")
    return folder


def worker_device(name: str) -> torch.device:
    """The device of this worker: of several GPUs the one of its local rank, as torchrun, SLURM or --workers set it."""
    device = pick_device(name)
    rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    if device.type != "cuda" or device.index is not None or not rank.isdigit():
        return device
    device = torch.device("cuda", int(rank) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _sweep(folder: Path) -> None:
    """Remove what dead workers of any machine left in a complete cache: temporary files, and claims of finished work."""
    for file in [*folder.iterdir(), *(folder / "build").iterdir()]:
        if fsio.LEFT_BEHIND.fullmatch(file.name) or file.match("build/*") and not file.match("build/seal.*"):
            fsio.discard(file)


def _calibrated(config: Config, samples: Samples, tower: DualEncoder, shared: Claims) -> Targets:
    """The calibration, which one worker fits and the others read."""
    folder, key = config.cache.path, cache_key(config.teacher, config.data, config.cache, samples)
    assert folder is not None
    if (targets := open_targets(folder, key, config.cache)) is not None:
        return targets
    with shared.turn("calibration", "the calibration"):
        return open_targets(folder, key, config.cache) or calibrate_cache(
            folder, key, config.data, config.cache, tower, samples
        )


def _inherited(config: Config, samples: Samples, tower: DualEncoder, shared: Claims) -> None:
    """Fit the student's inherited weights, in one worker; a tokenizer that a run learns is not there yet."""
    path = inherited_file(config, samples)
    if not config.student.inherit or config.student.tokenizer.startswith("train:") or path is None or path.is_file():
        return
    with shared.turn("inherited weights", "the student's inherited weights"):
        if not path.is_file():
            student = load_tower(config.student, teacher=config.teacher).to(tower.device)
            start_from_teacher(config, student, samples, tower)
