"""A lock file names its holder to a second process, and is free once the holder is dead."""

from __future__ import annotations

import os
import signal

import pytest

from cmapkd.core.errors import IntegrityError
from cmapkd.core.lease import exclusive
from waiting import until


def test_a_second_holder_is_refused_by_the_first_ones_name_and_a_dead_holder_is_no_obstacle(tmp_path):
    lease = tmp_path / "new" / "writer.lock"
    ready = tmp_path / "ready"
    pid = os.fork()
    if pid == 0:
        with exclusive(lease):
            ready.touch()
            signal.pause()
    try:
        assert until(ready.exists)
        with pytest.raises(IntegrityError, match=f"process {pid} on .* since 20"), exclusive(lease):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with exclusive(lease), pytest.raises(IntegrityError, match=f"process {os.getpid()} "), exclusive(lease):
        pass
    assert lease.read_bytes() == b""
