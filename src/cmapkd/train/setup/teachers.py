"""The teacher of a run: opened from its finished cache, or built to run live."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from cmapkd.config.schema import Config
from cmapkd.core.device import pick_precision
from cmapkd.core.errors import UsageError
from cmapkd.data.samples import Samples
from cmapkd.distributed.collectives import share_
from cmapkd.methods import needs_teacher, reading, reads_levels
from cmapkd.policy import POLICIES
from cmapkd.pyramid.levels import Shape
from cmapkd.pyramid.targets import Targets
from cmapkd.teacher.calibration_file import fit_targets
from cmapkd.teacher.ensemble import open_ensemble
from cmapkd.teacher.faults import corrupted
from cmapkd.teacher.layout import cache_key
from cmapkd.teacher.live import LiveTeacher
from cmapkd.teacher.protocol import Teacher
from cmapkd.teacher.reopen import open_cached_teacher
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower


@dataclass(frozen=True)
class OpenedTeacher:
    """tower: the model itself, where it runs live or a term reads it; else None."""

    teacher: Teacher
    targets: Targets
    shape: Shape
    tower: DualEncoder | None


def open_teacher(config: Config, terms: Iterable[str], samples: Samples, device: torch.device) -> OpenedTeacher | None:
    """The teacher that `terms` read, or None. A finished cache wakes the model only for terms that read the model itself."""
    terms = list(terms)
    if not needs_teacher(terms):
        return None
    if config.teacher is None:
        raise UsageError(f"method '{config.method}' needs a teacher; set teacher.model, or method: scratch")
    tower = None
    if config.cache.path is None or reading("teacher_inputs", terms) or reading("class_texts", terms):
        tower = load_tower(config.teacher, words=config.cache.words).to(device).requires_grad_(False)
    if config.cache.path is not None:
        return _from_cache(config, terms, samples, device, tower)
    assert tower is not None
    precision = pick_precision(config.train.precision, device)
    targets = Targets({}, None)
    if reads_pyramid(config, terms):
        targets = fit_targets(config.data, config.cache, tower, samples).to(device)
    share_(targets.tensors().values())
    live = LiveTeacher(tower, targets, precision)
    return OpenedTeacher(corrupted(live, config.corrupt, samples), targets, tower.shape, tower)


def reads_pyramid(config: Config, terms: Iterable[str]) -> bool:
    """Whether a term, or the policy, reads levels or the bridge."""
    return reads_levels(terms) or bool(reading("bridge", terms)) or POLICIES[config.policy.name].reads_bridge


def _from_cache(
    config: Config, terms: list[str], samples: Samples, device: torch.device, tower: DualEncoder | None
) -> OpenedTeacher:
    teacher, targets, shape = open_cached_teacher(config.teacher, config.data, config.cache, samples)
    teacher.device = device
    teacher = corrupted(teacher, config.corrupt, samples)
    if reading("further_teachers", terms):
        key, views = cache_key(config.teacher, config.data, config.cache, samples), config.data.views
        teacher = open_ensemble(teacher, config.cache.ensemble, key, views, device)
    return OpenedTeacher(teacher, targets.to(device), shape, tower)
