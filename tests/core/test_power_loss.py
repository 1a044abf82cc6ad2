"""After a power loss, nothing acknowledged is lost and nothing corrupt is taken for whole."""

from __future__ import annotations

import json
import os
import random
from hashlib import sha256
from pathlib import Path

import pytest

from cmapkd.core import fsio
from tests.core.crash_states import Folder, Recorder, build, kill_state, power_loss_states


def generations(root: Path, acknowledge, steps: int = 20) -> None:
    """Write generations of two files and a manifest, keep the newest two, and replace a file with each."""
    fsio.make_folder(root / "run" / "checkpoints")
    for step in range(steps):
        temporary = root / "run" / "checkpoints" / f"{step // 2:03d}.tmp.{os.getpid()}"
        fsio.make_folder(temporary)
        content = [f"{name}{step}".encode() * 9 for name in "ab"]
        hashes = [fsio.write_bytes(temporary / name, data) for name, data in zip("ab", content, strict=True)]
        fsio.write_json(temporary / "MANIFEST.json", hashes)
        final = root / "run" / "checkpoints" / f"{step // 2:03d}"  # every second one replaces the one before
        fsio.commit_dir(temporary, final)
        fsio.write_json(root / "run" / "state.json", step)
        acknowledge(step)
        if step % 2 and step > 4:
            fsio.retire_dir(root / "run" / "checkpoints" / f"{step // 2 - 2:03d}")


def fault_of(state: dict, acknowledged: int) -> str | None:
    """The error in a state after temporary files are swept, or None."""
    seen = {name: content for name, content in state.items() if content is not None}
    file = seen.get("run/state.json")
    if file is None:
        if acknowledged >= 0:
            return "the file is lost"
    elif not file.endswith(b"\n") or not file[:-1].isdigit():
        return "the file is corrupt"
    elif int(file) < acknowledged:
        return "the file is older than what was acknowledged"
    steps = [-1]
    # As sweep_temporaries does: what was set aside gets its name back where no successor has it.
    folders = {name: name for name, content in state.items() if content is None and name.count("/") == 2}
    for name in list(folders):
        final, _, rest = name.partition(".old.")
        if rest.isdigit() and final not in folders:
            folders[final] = name
    for name, place in folders.items():
        if "." in name:
            continue
        manifest = seen.get(f"{place}/MANIFEST.json")
        parts = [seen.get(f"{place}/{part}") for part in "ab"]
        if manifest is None or None in parts or manifest != fsio.json_bytes([sha256(p).hexdigest() for p in parts]):
            return f"generation {name} is corrupt"
        steps.append(int(parts[0][1 : len(parts[0]) // 9]))
    return "an acknowledged generation is lost" if max(steps) < acknowledged else None


def simulate(tmp_path: Path, monkeypatch, without: str | None = None) -> tuple[int, int, list[str]]:
    """(number of kill states, of power-loss states, errors) of `generations`, optionally without one system call."""
    rng, acknowledged, seen, faults = random.Random(0), [-1], [0, 0], []

    def after(disk: Folder) -> None:
        for kind, states in enumerate(([kill_state(disk)], power_loss_states(disk, rng))):
            for state in states:
                seen[kind] += 1
                fault = fault_of(state, acknowledged[0])
                faults.extend([fault] if fault else [])

    recorder = Recorder(tmp_path, after)
    if without:
        monkeypatch.setattr(recorder, without, lambda _: None)
    monkeypatch.setattr(fsio, "system", recorder)
    generations(tmp_path, lambda step: acknowledged.__setitem__(0, step), 4 if without else 20)
    return seen[0], seen[1], faults


def test_no_legal_state_after_a_power_loss_is_corrupt_or_older_than_acknowledged(tmp_path, monkeypatch):
    killed, lost, faults = simulate(tmp_path, monkeypatch)
    assert not faults
    assert killed > 500 and lost >= 10_000


def test_a_committed_folder_keeps_the_names_that_nobody_synced(tmp_path, monkeypatch):
    last: list[Folder] = []
    recorder = Recorder(tmp_path, last.append)
    monkeypatch.setattr(fsio, "system", recorder)
    fsio.make_folder(tmp_path / "draft")
    recorder.fsync(recorder.create(tmp_path / "draft" / "a"))
    fsio.commit_dir(tmp_path / "draft", tmp_path / "final")
    assert all(state == {"final": None, "final/a": b""} for state in power_loss_states(last[-1], random.Random(0)))


@pytest.mark.parametrize("primitive", ["fsync", "sync_folder"])
def test_the_simulator_finds_the_corruption_that_a_missing_sync_allows(tmp_path, monkeypatch, primitive):
    assert len(simulate(tmp_path, monkeypatch, without=primitive)[2]) > 100


def test_the_simulated_states_are_what_the_real_sweep_and_reader_see(tmp_path, monkeypatch):
    states: dict[str, dict] = {}
    rng = random.Random(1)

    def after(disk: Folder) -> None:
        for state in power_loss_states(disk, rng):
            states.setdefault(repr(state), state)

    (tmp_path / "work").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(fsio, "system", Recorder(tmp_path / "work", after))
        generations(tmp_path / "work", lambda step: None)
    for k, state in enumerate(rng.sample(list(states.values()), 100)):
        root = tmp_path / str(k)
        root.mkdir()
        build(state, root)
        fsio.sweep_temporaries(root)
        for folder in root.glob("run/checkpoints/*"):
            stated = json.loads((folder / "MANIFEST.json").read_text())
            assert folder.name.isdigit() and stated == [fsio.sha256_file(folder / name) for name in "ab"]
