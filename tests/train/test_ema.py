"""EMA: the average after each step, what is written and validated, and a resume that loses nothing of it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import world
from cmapkd.core.errors import UsageError
from cmapkd.train.ema import Ema
from cmapkd.train.runs.distill import distill

STUDENT = "student/open_clip_model.safetensors"


def test_the_average_is_the_recursion_with_a_decay_that_warms_up():
    module = nn.Linear(2, 1)
    ema, slow = Ema([module], 0.5), module.weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            module.weight.normal_(generator=torch.Generator().manual_seed(step))
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        slow = decay * slow + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(ema.average[0], slow)


def test_inside_the_block_the_average_stands_and_after_it_the_very_bits_of_before():
    module = nn.Linear(3, 2)
    ema = Ema([module], 0.9)
    with torch.no_grad():
        module.weight.add_(1)
    own = module.weight.detach().clone()
    with pytest.raises(RuntimeError), ema.applied():
        assert torch.equal(module.weight, ema.average[0]) and not torch.equal(module.weight, own)
        raise RuntimeError
    assert torch.equal(module.weight, own)


def test_the_run_trains_as_without_an_average_and_writes_the_average(root, tmp_path):
    plain = distill(world.config(root, run=str(tmp_path / "plain"), train__centre=False))
    run = distill(world.config(root, run=str(tmp_path / "run"), train__centre=False, train__ema=0.9))
    one, two = world.final_tensors(plain), world.final_tensors(run)
    assert all(torch.equal(two[k], v) for k, v in one.items() if k.startswith("learner/"))
    written, raw = load_file(run / STUDENT), load_file(plain / STUDENT)
    assert any(not torch.equal(written[k], raw[k]) for k in raw)
    assert any(v.shape == two["ema/0"].shape and torch.equal(v, two["ema/0"]) for v in written.values())
    assert [r["mean_recall@1"] for r in world.rows(run) if r["kind"] == "val"]


def test_a_resumed_run_ends_with_the_average_of_an_uninterrupted_one(root, tmp_path):
    whole = distill(world.config(root, run=str(tmp_path / "whole"), train__ema=0.9))
    config = world.config(root, run=str(tmp_path / "cut"), train__ema=0.9)
    world.cut_off(config, 4)
    distill(config, resume=True)
    one, two = world.final_tensors(whole), world.final_tensors(tmp_path / "cut")
    assert one.keys() == two.keys() and "ema/0" in one
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert (whole / STUDENT).read_bytes() == (tmp_path / "cut" / STUDENT).read_bytes()


def test_a_method_whose_result_is_not_the_student_refuses_an_average(root, tmp_path):
    config = world.config(root, run=str(tmp_path / "run"), method="promptkd", train__ema=0.9,
                          student__model=f"local-dir:{root / 'student-init'}")  # fmt: skip
    with pytest.raises(UsageError, match=r"train\.ema averages a student's weights"):
        distill(config)
