"""Images decoded on several processes are those that one thread decodes, and the processes end with their block."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cmapkd.core.errors import DataError, UsageError
from cmapkd.data.stored import Member, Picture, Region
from cmapkd.data.workers.job import Encoded, Job, Shown, job_of, message_of
from cmapkd.data.workers.pool import Pool, decode_here, decoding
from cmapkd.data.workers.wire import receive, send
from pictures import picture


def shown(sample: int, sizes: tuple[int, ...] = (8, 12)) -> Shown:
    return Shown(sample, sample % 3, 3, (0.5, 1.0), True, sizes)


@dataclass(frozen=True)
class Refusing:
    """An image in a container that cannot be read."""

    name: str
    error: Exception

    def length(self) -> int:
        return 1

    def read(self) -> bytes:
        raise self.error


def pictures(folder: Path) -> list[Picture]:
    """An image of every kind, some of them unreadable."""
    rng = np.random.default_rng(0)
    files: list[Picture] = [picture(folder / f"{k}.png", tuple(rng.integers(0, 256, 3).tolist())) for k in range(6)]
    data = (folder / "0.png").read_bytes()
    (folder / "box").write_bytes(data + data[:-9])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "junk.jpg").write_bytes(b"junk" * 9)
    inside = [Member(folder / "box", "a", 0, len(data)), Member(folder / "box", "b", len(data), len(data))]
    bytewise = [Encoded("c", data), Encoded("d", b"no image"), Refusing("e", OSError("the cell is empty"))]
    return [
        *files, folder / "empty.jpg", folder / "junk.jpg", folder / "gone.jpg", Path(os.fsdecode(b"/not\xff/utf8")),
        *inside, *bytewise, Region(folder / "1.png", (2, 3, 9, 9), (12, 8)), *files,
    ]  # fmt: skip


def test_every_kind_of_image_and_of_fault_comes_back_as_one_thread_finds_it(tmp_path: Path) -> None:
    jobs = [Job(place, shown(k)) for k, place in enumerate(pictures(tmp_path))]
    expected = decode_here(jobs)
    assert sum(isinstance(result, str) for result in expected) == 7
    for workers in (2, 3):
        with decoding(workers) as decode:
            found = decode(jobs)
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            if isinstance(theirs, str):
                assert mine == theirs
            else:
                assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_with_a_way_out_is_not_taken_for_an_unreadable_image(workers: int) -> None:
    with decoding(workers) as decode, pytest.raises(UsageError, match="pip install"):
        decode([Job(Refusing("e", UsageError("needs pyarrow: pip install pyarrow")), shown(0))])


def test_a_job_survives_the_way_to_a_worker_and_back(tmp_path: Path) -> None:
    for k, place in enumerate(pictures(tmp_path)):
        message = message_of(Job(place, shown(k)))
        if not isinstance(message, str) and not isinstance(place, Member | Encoded):
            assert job_of(message) == Job(place, shown(k))


def test_leaving_the_block_ends_processes_and_threads(tmp_path: Path) -> None:
    with Pool(2) as pool:
        pool.decode([Job(picture(tmp_path / "a.png"), shown(0))])
        processes = [worker.process for worker in pool.started]
        assert [process.poll() for process in processes] == [None, None]
    assert [process.poll() for process in processes] == [0, 0]
    assert not [t for t in threading.enumerate() if t.name.startswith("decoding")]


def test_a_worker_that_dies_is_one_line_with_the_images_it_had(tmp_path: Path) -> None:
    job = Job(picture(tmp_path / "a.png"), shown(0))
    with Pool(2) as pool:
        for worker in pool.started:
            worker.process.kill()
        with pytest.raises(
            DataError, match=r"killed by signal 9 while it read .*a\.png; .*lower data.workers"
        ) as caught:
            pool.decode([job] * 5)
    assert "\n" not in str(caught.value)


def test_a_worker_ignores_the_signals_of_its_parent_and_ends_with_its_socket(tmp_path: Path) -> None:
    with Pool(2) as pool:
        job = Job(picture(tmp_path / "a.png"), shown(0))
        pool.decode([job] * 8)
        for worker in pool.started:
            worker.process.send_signal(signal.SIGTERM)
            worker.process.send_signal(signal.SIGINT)
        assert len(pool.decode([job] * 8)) == 8


def test_a_worker_ends_when_its_parent_is_killed() -> None:
    code = "import sys,time\nfrom cmapkd.data.workers.pool import Pool\nwith Pool(2) as p:\n print(*[w.process.pid for w in p.started], flush=True)\n time.sleep(600)"
    places = os.pathsep.join(path or os.getcwd() for path in sys.path)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": places})  # fmt: skip
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    assert len(children) == 2
    assert (
        parent.stdout.read() == ""
    )  # the end of the pipe, which the children hold as well, comes when they have ended


def test_a_worker_imports_no_torch() -> None:
    code = "import sys, cmapkd.data.workers.process; sys.exit('torch' in sys.modules)"
    places = os.pathsep.join(path or os.getcwd() for path in sys.path)
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": places}, check=False).returncode
        == 0
    )


def test_a_frame_that_is_cut_off_is_the_end() -> None:
    here, there = socket.socketpair()
    with here, there:
        send(here, b"whole")
        here.sendall(b"\x09\x00\x00\x00part")
        here.close()
        assert receive(there) == b"whole" and receive(there) is None
