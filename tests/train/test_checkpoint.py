"""Checkpoints: bit-exact there and back, and the newest whole one is found after any fault."""

from __future__ import annotations

import errno
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as reference_load
from torch import nn

from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError
from cmapkd.train import checkpoint
from tests.core.crash_states import Folder, Recorder, build, kill_state, power_loss_states
from tests.core.dying import POINTS, Unsynced, killed, points, primitives_of
from tests.core.failing import every_failure


def content(step: int) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    made = torch.Generator().manual_seed(step)
    tensors = {
        "weight": torch.randn(5, 7, generator=made), "half": torch.randn(3, generator=made).bfloat16(),
        "rng": made.get_state()[:40].clone(), "count": torch.tensor(step), "mask": torch.rand(4, generator=made) > 0.5,
        "none": torch.empty(0, 3), "turned": torch.randn(4, 3, generator=made).T,
    }  # fmt: skip
    return tensors, {"step": step, "rate": 0.1 + step, "nested": [{"a": [None, True, "ü"]}]}


def save(folder: Path, step: int, keep: int = 3) -> Path:
    return checkpoint.save(folder, step, *content(step), keep)


def same(path: Path, step: int) -> bool:
    tensors, state = checkpoint.load_generation(path)
    wanted, wanted_state = content(step)
    return (
        state == wanted_state and tensors.keys() == wanted.keys() and all(equal(tensors[k], wanted[k]) for k in wanted)
    )


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To the bit, NaN and the sign of zero too."""
    raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*raw)


def newest(folder: Path) -> int:
    """Step of the newest generation that can be loaded with its own content, −1 where there is none."""
    fsio.sweep_temporaries(folder)
    path = checkpoint.latest(folder)
    if path is None:
        return -1
    step = int(path.name.removeprefix("step-"))
    assert same(path, step)
    return step


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def test_tensors_of_every_dtype_and_nested_state_come_back_to_the_bit(tmp_path):
    path = save(tmp_path, 120)
    assert path.name == "step-00000120" and same(path, 120)
    every = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in checkpoint.CODES}
    every["nan"] = torch.tensor([float("nan"), -0.0, float("inf")])
    tensors, _ = checkpoint.load_generation(checkpoint.save(tmp_path, 121, every, {}, 2))
    assert tensors.keys() == every.keys() and all(equal(tensors[name], every[name]) for name in every)


def test_the_tensor_file_is_plain_safetensors(tmp_path):
    path = save(tmp_path, 3)
    tensors = reference_load((path / "tensors.safetensors").read_bytes())
    assert all(equal(tensors[name], tensor) for name, tensor in content(3)[0].items())


def test_a_dtype_that_cannot_be_held_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="tensor z has dtype torch.complex64"):
        checkpoint.save(tmp_path, 1, {"z": torch.zeros(2, dtype=torch.complex64)}, {}, 1)
    assert not list(tmp_path.iterdir())


def test_only_the_newest_are_kept_and_the_newest_is_found_by_number(tmp_path):
    for step in (5, 20, 100_000_000, 99_999_999):
        save(tmp_path, step, keep=2)
    assert newest(tmp_path) == 100_000_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-100000000", "step-99999999"]
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 7)
    checkpoint.save(tmp_path, 7, {"w": torch.ones(1)}, {"second": True}, 3)
    assert checkpoint.load_generation(checkpoint.latest(tmp_path))[1] == {"second": True}
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000007"]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "MANIFEST.json"])
def test_any_flipped_bit_falls_back_to_the_generation_before_and_says_so(tmp_path, name, capsys):
    for step in (1, 2):
        save(tmp_path, step)
    file = tmp_path / "step-00000002" / name
    bits = 8 * file.stat().st_size
    rng = random.Random(0)
    for bit in {0, bits - 1, *(rng.randrange(bits) for _ in range(POINTS))}:
        flip(file, bit)
        assert newest(tmp_path) == 1
        assert "warning: checkpoint" in (said := capsys.readouterr().err) and "step-00000002" in said
        with pytest.raises(IntegrityError, match="step-00000002"):
            checkpoint.load_generation(file.parent)
        flip(file, bit)
    assert newest(tmp_path) == 2


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "another step's"])
def test_a_missing_torn_or_exchanged_file_falls_back_too(tmp_path, name, damage):
    for step in (1, 2):
        save(tmp_path, step)
    file = tmp_path / "step-00000002" / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else (tmp_path / "step-00000001" / name).read_bytes())
    assert newest(tmp_path) == 1


def test_a_generation_under_another_steps_name_is_refused(tmp_path):
    save(tmp_path, 1).rename(tmp_path / "step-00000009")
    with pytest.raises(IntegrityError, match=r"MANIFEST\.json differs"):
        checkpoint.load_generation(tmp_path / "step-00000009")
    shutil.copytree(tmp_path / "step-00000009", tmp_path / "copy")
    assert same(tmp_path / "copy", 1)


def test_what_is_saved_after_a_fall_back_is_not_deleted_in_favour_of_the_corrupt_one(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=1)
    flip(tmp_path / "step-00000003" / "state.json", 5)
    save(tmp_path, 2, keep=1)
    assert newest(tmp_path) == 2 and (tmp_path / "step-00000003").is_dir()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_any_failed_primitive_leaves_the_generations_before_intact(tmp_path, monkeypatch, number):
    folder = tmp_path / "checkpoints"
    for error in every_failure(monkeypatch, number, lambda: save(folder, 2, keep=1)):
        step = newest(folder)
        assert step == 2 if error is None else step in (1, 2) or not folder.exists() or not any(folder.iterdir())
        if error is not None:
            assert "intact" in str(error) and "\n" not in str(error)
        shutil.rmtree(folder, ignore_errors=True)
        save(folder, 1)


def test_kill_9_loses_no_acknowledged_step_and_leaves_none_corrupt(tmp_path, monkeypatch):
    def train() -> None:
        for step in range(1, 7):
            save(folder, step, keep=2)
            with log.open("ab", buffering=0) as file:
                file.write(b"%d\n" % step)

    folder, log = tmp_path / "count", tmp_path / "log"
    total = primitives_of(train)
    monkeypatch.setattr(fsio, "system", Unsynced())
    for k, n in enumerate(points(total)):
        folder = tmp_path / str(k)
        acknowledged = max((int(line) for line in killed(train, n, log).split()), default=-1)
        step = newest(folder)
        assert step >= acknowledged
        assert all(path.name.startswith("step-") and "." not in path.name for path in folder.glob("*"))
        for path in checkpoint.generations(folder):
            checkpoint.verify(path)
        save(folder, max(step, 0) + 1, keep=2)
        assert newest(folder) == max(step, 0) + 1
        shutil.rmtree(folder)


def test_no_power_loss_loses_an_acknowledged_step(tmp_path, monkeypatch):
    acknowledged, states, rng = -1, {}, random.Random(0)

    def after(disk: Folder) -> None:
        for state in [kill_state(disk), *power_loss_states(disk, rng)]:
            states[repr(state)] = state, acknowledged

    work = tmp_path / "work"
    work.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(fsio, "system", Recorder(work, after))
        for step in (1, 2, 3, 3):
            save(work / "checkpoints", step, keep=2)
            acknowledged = step
    monkeypatch.setattr(fsio, "system", Unsynced())
    assert len(states) > 200
    for k, (state, least) in enumerate(rng.sample(list(states.values()), 150)):
        root = tmp_path / str(k)
        root.mkdir()
        build(state, root)
        assert newest(root / "checkpoints") >= least
        for path in checkpoint.generations(root / "checkpoints"):
            checkpoint.verify(path)
        shutil.rmtree(root)


def network(seed: int) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    matrices, rest = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), foreach=True)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for group in optimizer.param_groups:
            group["lr"] *= 0.97
        optimizer.zero_grad()
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()


def test_a_restored_optimizer_continues_to_the_bit(tmp_path):
    model, optimizer = network(0)
    train(model, optimizer, 3)
    tensors, groups = checkpoint.optimizer_tensors(optimizer)
    every = {f"model/{k}": v for k, v in model.state_dict().items()} | {f"optimizer/{k}": v for k, v in tensors.items()}
    path = checkpoint.save(tmp_path, 3, every | {"rng": torch.get_rng_state()}, {"optimizer": groups}, 1)
    train(model, optimizer, 3)

    other, restored = network(1)
    loaded, state = checkpoint.load_generation(path)
    other.load_state_dict({k.removeprefix("model/"): v for k, v in loaded.items() if k.startswith("model/")})
    slots = {k.removeprefix("optimizer/"): v for k, v in loaded.items() if k.startswith("optimizer/")}
    checkpoint.restore_optimizer(restored, slots, state["optimizer"])
    assert restored.param_groups[0]["betas"] == (0.9, 0.98) and isinstance(restored.param_groups[0]["betas"], tuple)
    torch.set_rng_state(loaded["rng"])
    train(other, restored, 3)
    assert all(equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    one, two = optimizer.state_dict(), restored.state_dict()
    assert one["param_groups"] == two["param_groups"]
    assert all(equal(v, two["state"][k][name]) for k, slot in one["state"].items() for name, v in slot.items())


def test_optimizer_state_that_is_no_tensor_comes_back_too():
    def optimizer(buffer: torch.Tensor | None) -> torch.optim.SGD:
        weight = nn.Parameter(torch.ones(2))
        made = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        made.state[weight] = {"momentum_buffer": buffer, "seen": 0.1}
        return made

    tensors, groups = checkpoint.optimizer_tensors(optimizer(None))
    other = optimizer(torch.ones(2))
    checkpoint.restore_optimizer(other, tensors, json.loads(json.dumps(groups)))
    assert list(other.state.values()) == [{"momentum_buffer": None, "seen": 0.1}]


def test_the_state_of_another_optimizer_is_refused():
    _, optimizer = network(0)
    tensors, groups = checkpoint.optimizer_tensors(optimizer)
    small = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    with pytest.raises(IntegrityError, match="other parameter groups"):
        checkpoint.restore_optimizer(small, tensors, groups)
