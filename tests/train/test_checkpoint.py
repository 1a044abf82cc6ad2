import errno
import os

import pytest
import torch

from cmapkd.core import fsio
from cmapkd.core.errors import DiskError, IntegrityError
from cmapkd.train import checkpoint


def some(step: int) -> tuple[dict, dict]:
    return {"w": torch.full((4, 3), float(step)), "rng": torch.arange(5, dtype=torch.uint8)}, {
        "step": step,
        "best": None,
    }


def test_tensors_and_state_come_back_exactly(tmp_path):
    path = checkpoint.save(tmp_path, 7, *some(7), keep=2)
    tensors, state = checkpoint.load_generation(path)
    assert torch.equal(tensors["w"], some(7)[0]["w"]) and tensors["rng"].dtype == torch.uint8
    assert state == {"step": 7, "best": None}


def test_only_the_newest_are_kept(tmp_path):
    for step in range(5):
        checkpoint.save(tmp_path, step, *some(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "MANIFEST.json"])
def test_a_flipped_bit_falls_back_to_the_generation_before(tmp_path, file, capsys):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, *some(step), keep=2)
    path = tmp_path / "step-00000002" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    assert checkpoint.latest(tmp_path).name == "step-00000001"
    assert "warning" in capsys.readouterr().err
    with pytest.raises(IntegrityError, match="step-00000002"):
        checkpoint.load_generation(tmp_path / "step-00000002")


def test_a_disk_that_fills_at_any_write_leaves_the_generation_before(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, *some(1), keep=1)
    for failing in range(40):
        full, calls = fsio.OS(), iter(range(1000))

        def write(descriptor, data, calls=calls, failing=failing):
            if next(calls) == failing:
                raise OSError(errno.ENOSPC, "full")
            return os.write(descriptor, data)

        monkeypatch.setattr(full, "write", write, raising=False)
        monkeypatch.setattr(fsio, "system", full)
        try:
            checkpoint.save(tmp_path, 2, *some(2), keep=1)
            break
        except DiskError:
            assert checkpoint.latest(tmp_path).name == "step-00000001"
    assert failing >= 3 and checkpoint.latest(tmp_path).name == "step-00000002"


def test_an_optimizer_goes_on_to_the_bit(tmp_path):
    def fresh():
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 2)
        return model, torch.optim.AdamW(
            [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}], lr=0.1
        )

    def step(model, optimizer, k):
        optimizer.zero_grad()
        model(torch.full((3, 4), float(k))).square().sum().backward()
        optimizer.step()

    whole, optimizer = fresh()
    for k in range(6):
        step(whole, optimizer, k)
        if k == 2:
            weights = {n: v.clone() for n, v in whole.state_dict().items()}
            saved, groups = checkpoint.optimizer_tensors(optimizer)
            path = checkpoint.save(tmp_path, 3, {**saved}, {"groups": groups}, keep=1)
    again, other = fresh()
    again.load_state_dict(weights)
    tensors, state = checkpoint.load_generation(path)
    checkpoint.restore_optimizer(other, tensors, state["groups"])
    for k in range(3, 6):
        step(again, other, k)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
