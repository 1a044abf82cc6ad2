"""Devices by name: one that this machine has, or one line that says why not."""

import pytest
import torch

from cmapkd.core.device import pick_device
from cmapkd.core.errors import UsageError


def test_a_device_that_is_not_here_is_refused_in_one_line():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="'gpu0' is not a device"):
        pick_device("gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="'cuda' cannot be used here") as caught:
            pick_device("cuda")
        assert "\n" not in str(caught.value)
