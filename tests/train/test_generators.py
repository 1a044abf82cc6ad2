"""Random generators: those of the CPU and of each CUDA device in use are kept and put back."""

import torch

from cmapkd.core import generators


def test_the_cpu_generator_goes_on_where_it_was_kept():
    kept = generators.states()
    first = torch.rand(4)
    generators.restore(kept)
    assert torch.equal(torch.rand(4), first)


def test_the_generators_of_cuda_devices_are_kept_and_put_back(monkeypatch):
    states = [torch.tensor([1], dtype=torch.uint8), torch.tensor([2], dtype=torch.uint8)]
    put = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put.update({device: state}))
    kept = generators.states()
    assert set(kept) == {"torch", "cuda-0", "cuda-1"}
    generators.restore(kept)
    assert list(put) == [0] and put[0] is states[0], "the second device is not there any more"
