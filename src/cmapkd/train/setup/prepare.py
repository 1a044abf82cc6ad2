"""`cmapkd cache`: everything that is computed once before runs: the teacher's features, the student's start, its pixels."""

from __future__ import annotations

from pathlib import Path

from cmapkd.config.schema import Config
from cmapkd.core.device import pick_device
from cmapkd.core.errors import UsageError
from cmapkd.core.log import say
from cmapkd.data.pixels import write_pixels
from cmapkd.data.readers import open_samples
from cmapkd.store.folder_check import check_folder
from cmapkd.teacher.build import feature_bytes, seal_features, write_features
from cmapkd.teacher.calibration_file import calibrate_cache, open_targets
from cmapkd.teacher.layout import cache_key
from cmapkd.towers.load import load_tower
from cmapkd.towers.named import image_size, warn_of_random
from cmapkd.towers.text_final import require_text_levels
from cmapkd.train.setup.start_student import start_from_teacher


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
    require_text_levels(tower, "teacher.model", ["the cache"])
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
    device = pick_device(config.train.device)
    tower.to(device)
    key = cache_key(config.teacher, config.data, config.cache, samples)
    targets = open_targets(folder, key, config.cache) or calibrate_cache(
        folder, key, config.data, config.cache, tower, samples
    )
    if config.student.inherit and not config.student.tokenizer.startswith("train:"):  # that one is learnt by a run
        start_from_teacher(config, load_tower(config.student, teacher=config.teacher).to(device), samples, tower)
    ledger = write_features(config, samples, tower, targets.to(device))
    if config.cache.pixels:
        write_pixels(samples, config.data, config.cache, image_size(config.student))
    seal_features(config, samples, tower)
    if ledger.quarantined:
        say(f"{len(ledger.quarantined)} unreadable images, which are not trained on: {ledger.shown()}")
    say(f"cache complete and verified: {folder}")
    return folder
