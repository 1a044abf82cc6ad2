"""Convolutions stored channels last: only where the CPU's kernels are sound, so that no student ends the process."""

from __future__ import annotations

import multiprocessing

import torch
from torch import nn

import world
from cmapkd.config.schema import TowerConfig
from cmapkd.towers.families.image_conv import unsafe_channels_last
from cmapkd.towers.load import load_tower
from cmapkd.train.runs.distill import distill
from families.open_clip import FAMILIES


def test_a_student_with_a_mobileone_stem_is_trained_and_its_process_lives(tmp_path):
    world.teacher_folder(tmp_path / "teacher")
    student = FAMILIES["open_clip-mobileclip"](tmp_path / "mobileclip")
    over = {"student__model": student, "cache__path": None, "train__steps": 2, "train__batch": 4}
    process = multiprocessing.get_context("fork").Process(target=distill, args=(world.config(tmp_path, **over),))
    process.start()
    process.join()
    assert process.exitcode == 0, "a negative code is the signal that ended it"
    steps = [row for row in world.rows(tmp_path / "run") if row["kind"] == "train"]
    assert len(steps) == 2 and (tmp_path / "run" / "student").is_dir()


def test_a_strided_1_x_1_convolution_of_few_channels_keeps_its_tower_in_the_default_layout(tmp_path):
    for layer, unsafe in (
        (nn.Conv2d(3, 64, 1, stride=2), True),
        (nn.Conv2d(15, 64, 1, stride=2), True),
        (nn.Conv2d(16, 64, 1, stride=2), False),
        (nn.Conv2d(3, 64, 1), False),
        (nn.Conv2d(3, 64, 3, stride=2), False),
        (nn.Conv2d(3, 64, 1, stride=2, device="meta"), False),
    ):
        assert unsafe_channels_last(nn.Sequential(layer)) == unsafe
    mobile, plain = (
        load_tower(TowerConfig(model=FAMILIES[f"open_clip-{name}"](tmp_path / name))).channels_last()
        for name in ("mobileclip", "convnext")
    )
    stored = [
        value.is_contiguous(memory_format=torch.channels_last)
        for value in plain.native.visual.parameters()
        if value.ndim == 4
    ]
    assert all(stored) and all(value.is_contiguous() for value in mobile.native.visual.parameters())
