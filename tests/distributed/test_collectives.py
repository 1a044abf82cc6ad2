"""Collectives: what one process makes all get, errors reach all, and the first goes before the others."""

import os
import threading
from pathlib import Path

import pytest
import torch

from cmapkd.core.errors import DataError, IntegrityError, UsageError
from cmapkd.distributed import collectives, group
from cmapkd.distributed.collectives import (
    first_before_others,
    from_first,
    gathered,
    share_,
    start_maximum,
    sum_,
    tensors_from_first,
    values_of_all,
)
from cmapkd.distributed.place import Place
from distributed.together import together


def values(folder: Path) -> dict[str, object]:
    mine = group.rank()
    with first_before_others():
        found = (folder / "made").exists()
        (folder / "made").touch()
    tensors, facts = tensors_from_first(
        lambda: ({"a": torch.arange(3).half() + mine, "b": torch.ones(())}, {"of": mine})
    )
    total, shared = [torch.tensor([mine + 1, 2**62]), torch.full((2, 2), 1.0 + mine)], torch.full((3,), float(mine))
    sum_(total)
    share_([shared])
    with group.alone():
        inside = [group.world(), from_first(lambda: mine), values_of_all(mine)]
    return {
        "found": found, "a": tensors["a"], "b": tensors["b"], "facts": facts["of"], "value": from_first(lambda: [mine, (1, 2)]),
        "all": values_of_all(mine * 10), "total": total[0], "floats": total[1], "shared": shared,
        "maximum": start_maximum(mine)(), "inside": inside, "rows": gathered([torch.tensor([[mine, 0], [mine, 1]])])[0],
    }  # fmt: skip


def _fails() -> int:
    raise DataError("no such picture")


def test_all_processes_get_what_one_makes(tmp_path):
    first, second = together(2, values, tmp_path / "answers", tmp_path)
    assert (first["found"], second["found"]) == (False, True)
    for one in (first, second):
        assert one["a"].tolist() == [0, 1, 2] and one["a"].dtype == torch.float16 and one["b"].shape == ()
        assert one["facts"] == 0 and one["value"] == [0, [1, 2]] and one["all"] == [0, 10] and one["maximum"] == 1
        assert one["total"].tolist() == [3, -(2**63)] and one["floats"].tolist() == [[3.0, 3.0]] * 2
        assert one["shared"].tolist() == [0, 0, 0] and one["rows"].tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert (first["inside"], second["inside"]) == ([1, 0, [0]], [1, 1, [1]])


def fault(folder: Path) -> None:
    try:
        from_first(_fails)
    except DataError as error:
        (folder / f"made-{group.rank()}").write_text(f"{error.told} {error}")
    if group.rank() == 1:
        raise IntegrityError("a bad disk")
    try:
        total = torch.zeros(1)
        while True:
            sum_([total])
    except IntegrityError as error:
        (folder / "seen").write_text(f"{error.told} {error}")


def test_an_error_of_one_process_reaches_the_others_in_its_own_kind(tmp_path):
    with pytest.raises(Exception, match="a bad disk"):
        together(2, fault, tmp_path / "answers", tmp_path)
    assert (tmp_path / "made-0").read_text() == "False no such picture"
    assert (tmp_path / "made-1").read_text() == "True no such picture"
    said = (tmp_path / "seen").read_text()
    assert said.startswith("True rank 1 (process ") and said.endswith(": a bad disk")


def test_in_one_process_everything_is_itself():
    tensor = torch.ones(2)
    sum_([tensor])
    share_([tensor])
    assert tensor.tolist() == [1, 1] and from_first(lambda: (1, 2)) == (1, 2) and values_of_all(3) == [3]
    assert start_maximum(4)() == 4 and gathered([tensor])[0] is tensor


def test_buckets_hold_one_dtype_and_a_bounded_size(monkeypatch):
    monkeypatch.setattr(collectives, "BUCKET", 16)
    tensors = [torch.ones(2), torch.ones(2, dtype=torch.int64), torch.ones(3), torch.ones(1), torch.ones(9)]
    sizes = [[tensor.numel() for tensor in bucket] for bucket in collectives._buckets(tensors)]
    assert sizes == [[2], [2], [3, 1], [9]]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in Place(3, 4, 3, 4, "127.0.0.1", 1).environment().items():
        monkeypatch.setenv(name, value)
    said = "rank 3: is process 4 of 4 on a machine with 2 GPUs; start 2 there, or set train.device: cpu"
    with pytest.raises(UsageError, match=said), group.joined(5, gpus=True):
        pass


def test_processes_that_cannot_meet_are_told_where(monkeypatch, tmp_path):
    import socket

    monkeypatch.setattr(group, "MEETING", 2.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = Place(0, 2, 0, 2, "127.0.0.1", taken.getsockname()[1])
        for name, value in place.environment().items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(UsageError, match=f"rank 0 of 2 cannot meet the others at 127.0.0.1:{place.port}"),
            group.joined(5),
        ):
            pass
    assert group.world() == 1 and os.environ["RANK"] == "0"


def test_a_process_whose_others_never_start_says_what_it_waits_for(monkeypatch, capsys):
    import socket

    monkeypatch.setattr(group, "MEETING", 2.0)
    monkeypatch.setattr(group, "PATIENT", 0.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = Place(0, 2, 0, 2, "127.0.0.1", free.getsockname()[1])
    for name, value in place.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="cannot meet the others"), group.joined(5):
        pass
    said = f"rank 0 of 2: waiting for 1 other process at 127.0.0.1:{place.port}; gives up after 2 s. "
    assert [line[: len(said)] for line in capsys.readouterr().err.splitlines()].count(said) == 1


def test_processes_that_meet_in_time_say_nothing(capsys):
    before = set(threading.enumerate())
    with group.saying_what_it_waits_for(Place(0, 3, 0, 3, "127.0.0.1", 1)):
        (timer,) = set(threading.enumerate()) - before
    timer.join()
    assert capsys.readouterr().err == ""
