"""Levels that sleep are cheaper by what the log says, and saying so changes nothing."""

import pytest
import torch

import world
from cmapkd.config.schema import TowerConfig
from cmapkd.core.types import LEVELS, Needs
from cmapkd.report.log_series import saved
from cmapkd.towers.load import load_tower
from cmapkd.train.runs import finish, saving
from cmapkd.train.runs.distill import distill
from cmapkd.train.runs.saving import measure_saving
from cmapkd.train.setup.assemble import assemble

ASLEEP = {"policy__name": "manual", "policy__weights": {"P2": 0.0, "L1": 0.0}, "eval": {}}


@pytest.fixture(scope="module")
def asleep(root):
    return distill(world.config(root, run=str(root / "saving"), **ASLEEP))


def test_the_log_tells_bytes_of_every_step_and_the_final_row_what_sleeping_saves(root, asleep):
    rows = world.rows(asleep)
    saving, steps = rows[-1]["saving"], [row["bytes"] for row in rows if row["kind"] == "train"]
    teacher = assemble(world.config(root, run=str(root / "x"), **ASLEEP), root / "x").teacher
    size = sum(8 * (teacher.image if k[0] == "P" else teacher.text).fields[k].nbytes for k in ("P2", "L1"))
    size += 8 * teacher.text.fields["L1-mask"].nbytes
    assert (saving["levels_full"], saving["levels_awake"]) == (8, 6)
    assert saving["bytes_full"] - saving["bytes_awake"] == size > 0
    assert steps == [saving["bytes_awake"]] * 8
    assert saving["ms_full"] > 0 and saving["ms_awake"] > 0


def test_where_every_level_is_awake_there_is_nothing_to_tell(root, tmp_path):
    rows = world.rows(distill(world.config(root, run=str(tmp_path / "run"), eval={})))
    assert "saving" not in rows[-1] and saved(rows) == ""


def test_a_level_that_costs_time_is_seen_to_save_it(root, tmp_path, monkeypatch):
    run = assemble(world.config(root, run=str(tmp_path / "run"), **ASLEEP), tmp_path / "run")
    level, clock = type(run.state.learner.projectors).level, [0.0]

    def slow(self, name, tokens):
        clock[0] += 2.0 if name == "P2" else 1.0
        return level(self, name, tokens)

    monkeypatch.setattr(type(run.state.learner.projectors), "level", slow)
    monkeypatch.setattr(saving.time, "perf_counter", lambda: clock[0])
    found = measure_saving(run)
    assert (found["ms_full"], found["ms_awake"]) == (9000.0, 6000.0), "P2 and L1 are asleep"


def test_measuring_moves_no_weight_and_no_draw(root, asleep, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "measure_saving", lambda run: {})
    other = distill(world.config(root, run=str(tmp_path / "run"), **ASLEEP))
    a, b = (load_tower(TowerConfig(model=f"local-dir:{f / 'student'}")).native.state_dict() for f in (asleep, other))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert world.rows(asleep)[-1]["ledger"] == world.rows(other)[-1]["ledger"]
    run = assemble(world.config(root, run=str(tmp_path / "x"), **ASLEEP), tmp_path / "x")
    state, draws = {k: v.clone() for k, v in run.state.learner.state_dict().items()}, torch.get_rng_state()
    measure_saving(run)
    assert all(torch.equal(v, state[k]) for k, v in run.state.learner.state_dict().items())
    assert torch.equal(draws, torch.get_rng_state()) and all(p.grad is None for p in run.state.learner.parameters())


def test_the_report_says_it_in_a_sentence(asleep):
    said = saved(world.rows(asleep))
    assert said.startswith(f"6 of {len(LEVELS)} levels were still awake at the end") and " kB instead of " in said


@pytest.mark.parametrize(("levels", "bridge"), [(LEVELS, True), (("P3", "L2"), False), ((), True)])
def test_the_bytes_of_a_teaching_are_what_the_store_counted(root, tmp_path, levels, bridge):
    run = assemble(world.config(root, run=str(tmp_path / "run"), **ASLEEP), tmp_path / "run")
    stores = run.teacher.image, run.teacher.text
    for store in stores:
        store.bytes_read.clear()
    outputs = run.teacher.outputs(run.loader.batch(0), Needs(teacher=True, levels=levels, bridge=bridge))
    assert outputs.read == sum(store.bytes_read.total() for store in stores) > 0
