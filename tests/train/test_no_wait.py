"""No host wait in a step: nothing of a training step asks a tensor for a number, which on a GPU stops the host until it is there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import world
from cmapkd.core.log import MetricsLog
from cmapkd.train import grad_cache
from cmapkd.train.batches import step_inputs, training_batches
from cmapkd.train.loop import gradients, trainable
from cmapkd.train.policy_step import with_policy
from cmapkd.train.records.recorder import Recorder
from cmapkd.train.setup.assemble import assemble
from cmapkd.train.state import Run

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "item", "equal", "unique")
ASKING = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")


class NoWait(TorchDispatchMode):
    """Raises at an operation whose result, or whose shape, the host has to wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        masks = [i for i in args[1] if i is not None and i.dtype == torch.bool] if name.startswith("index") else []
        assert name not in WAITING and not masks, f"{func} makes the host wait"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch):
    """Asking a tensor for a number from Python raises too: some of these ways pass the dispatcher by."""

    def forbid() -> NoWait:
        for name in ASKING:
            monkeypatch.setattr(
                torch.Tensor, name, lambda *_, name=name: pytest.fail(f"Tensor.{name} makes the host wait")
            )
        return NoWait()

    return forbid


def opened(root, folder, **over) -> tuple[Run, Recorder]:
    run = assemble(world.config(root, run=str(folder), train__steps=400, **over), folder)
    run.state.learner.train()
    run.state.optimizer = torch.optim.AdamW(run.state.learner.parameters(), fused=True)  # as on a GPU
    return run, Recorder(run, MetricsLog(folder / "metrics.jsonl"))


def one_step(run: Run, recorder: Recorder, step: int, prepared: Any) -> None:
    """The step of train/loop.py, without the finite check, which reads its flag a step later on a GPU."""
    given = with_policy(run, step_inputs(run, prepared, step), step, recorder)
    total, losses = gradients(run, given, None)
    norm = torch.nn.utils.clip_grad_norm_(trainable(run, given.stage), 1.0)
    run.state.optimizer.step()
    run.state.learner.student.similarity.clamp_()
    recorder.step(step, given, total, losses, norm, 0.1)
    recorder.show(step, given.stage.name, total)


CASES = {
    "cmapkd_full": {},
    "cmapkd_full with few levels": {
        "schedule": [{"name": "few", "until": 1.0, "levels": ["P3", "P4", "L2", "L3"]}],
    },
    "cmapkd_full in parts": {"train__accumulate": 2},
    "cmapkd_full live": {"cache__path": None},
    "scratch": {}, "clip_kd": {}, "rkd": {}, "fitnet": {}, "dcclip": {}, "kd": {},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_step_asks_no_tensor_for_a_number(root, tmp_path, waits, monkeypatch, case):
    monkeypatch.setattr(grad_cache, "looking_is_free", lambda _: False)  # as on a GPU
    run, recorder = opened(root, tmp_path, method=case.split()[0], **CASES[case])
    batches = training_batches(run, 3)
    (first, warm), (second, prepared) = next(batches), next(batches)
    batches.close()
    one_step(run, recorder, first, warm)
    before = [p.detach().clone() for p in run.state.learner.student.parameters()]
    with waits():
        one_step(run, recorder, second, prepared)
    assert any(not torch.equal(a, b) for a, b in zip(before, run.state.learner.student.parameters(), strict=True))


@pytest.mark.parametrize("policy", ["manual", "random", "veto", "gating", "routing", "rl"])
def test_between_two_credit_events_a_policy_asks_no_tensor_for_a_number(root, tmp_path, waits, policy):
    learns = (
        {"data__holdout": 0.1, "policy__every": 4, "policy__collect": 0.0} if policy not in ("manual", "random") else {}
    )
    run, recorder = opened(root, tmp_path, policy__name=policy, **learns)
    batches = training_batches(run, 3)
    (event, warm), (second, after), (third, prepared) = (next(batches) for _ in range(3))
    batches.close()
    one_step(run, recorder, event, warm)
    one_step(run, recorder, second, after)
    with waits():
        one_step(run, recorder, third, prepared)


@pytest.mark.parametrize("ask", [lambda x: x[x > 0], lambda x: x.sum() > 0 and 1, lambda x: x.nonzero(), float])
def test_the_guard_sees_the_usual_ways_of_waiting(waits, ask):
    x = torch.ones(3).sum() if ask is float else torch.ones(3)
    ask(x)
    guard = waits()
    with guard, pytest.raises((AssertionError, pytest.fail.Exception), match="makes the host wait"):
        ask(x)
