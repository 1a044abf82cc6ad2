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
from cmapkd.methods import TERMS, needs_teacher, reading
from cmapkd.policy import POLICIES
from cmapkd.pyramid.levels import Shape
from cmapkd.pyramid.targets import Targets
from cmapkd.teacher.calibration_file import fit_targets
from cmapkd.teacher.ensemble import open_ensemble
from cmapkd.teacher.faults import corrupted
from cmapkd.teacher.final_only import FinalTeacher
from cmapkd.teacher.layout import cache_key
from cmapkd.teacher.live import LiveTeacher
from cmapkd.teacher.protocol import Teacher
from cmapkd.teacher.reopen import open_cached_teacher
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.families.text_final import require_text_levels
from cmapkd.towers.load import load_tower


@dataclass(frozen=True)
class OpenedTeacher:
    """tower: the model itself, where it runs live or a term reads it; else None.

    targets: None for a teacher without text levels, which gives final embeddings only.
    """

    teacher: Teacher
    targets: Targets | None
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
    require_text_levels(tower, "teacher.model", level_readers(config, terms))
    if not tower.text.has_levels:
        return OpenedTeacher(
            corrupted(FinalTeacher(tower, precision), config.corrupt, samples), None, tower.shape, tower
        )
    targets = fit_targets(config.data, config.cache, tower, samples).to(device)
    share_(targets.tensors().values())
    live = LiveTeacher(tower, targets, precision)
    return OpenedTeacher(corrupted(live, config.corrupt, samples), targets, tower.shape, tower)


def level_readers(config: Config, terms: Iterable[str]) -> list[str]:
    """The terms, and the policy, that read the levels or the bridge of both towers."""
    readers = sorted(name for name in terms if TERMS[name].reads_levels() or "bridge" in TERMS[name].reads)
    return readers + ([f"policy {config.policy.name}"] if POLICIES[config.policy.name].reads_bridge else [])


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
