"""Policies in a run: what sleeps costs nothing, credit is held out, and a price may end all teaching by levels."""

from dataclasses import replace

import pytest

import world
from cmapkd.core.errors import UsageError
from cmapkd.core.log import MetricsLog
from cmapkd.pyramid.projectors import Projectors
from cmapkd.store.store import Store
from cmapkd.train import loop
from cmapkd.train.records.recorder import Recorder
from cmapkd.train.runs import finish
from cmapkd.train.runs.distill import distill
from cmapkd.train.runs.folder import prepare_folder
from cmapkd.train.setup import assemble as assembling


def test_a_level_that_sleeps_is_neither_read_nor_computed(root, monkeypatch):
    read, adapted = set(), set()
    real_read, real_level = Store.read, Projectors.level
    monkeypatch.setattr(Store, "read", lambda self, name, rows: read.add(name) or real_read(self, name, rows))
    monkeypatch.setattr(Projectors, "level", lambda self, name, x: adapted.add(name) or real_level(self, name, x))
    monkeypatch.setattr(assembling, "learn_from_first_batches", lambda run, inherits: None)  # both look at every level
    monkeypatch.setattr(finish, "measure_saving", lambda run: {})
    over = {"policy__name": "manual", "policy__weights": {"P2": 0.0, "L1": 0.0}, "train__steps": 2, "eval__every": None}
    distill(world.config(root, run=str(root / "asleep"), **over))
    assert {"P3", "L2"} <= read & adapted and not {"P2", "L1"} & (read | adapted)


def test_a_price_above_any_reward_ends_with_the_final_terms_alone(root):
    over = {
        "policy__name": "veto",
        "policy__every": 1,
        "policy__cost": 1e3,
        "policy__patience": 1,
        "data__holdout": 0.1,
    }
    folder = distill(world.config(root, run=str(root / "priced"), **over))
    rows = world.rows(folder)
    first, *_, last = (row for row in rows if row.get("kind") == "train")
    assert first["levels"] == 8 and last["levels"] == 0 and rows[-1]["kind"] == "final"
    assert {"loss/align", "loss/fd"} <= set(last) and not {"loss/intra_v", "loss/relation"} & set(last)
    assert last["grad_norm"] > 0, "the final terms go on teaching"


def test_a_credit_event_whose_held_out_batch_is_trained_on_stops_the_run(root, tmp_path):
    over = {"policy__name": "veto", "policy__every": 1, "data__holdout": 0.2, "cache__path": None}
    config = world.config(root, run=str(tmp_path / "run"), **over)
    run = assembling.assemble(config, prepare_folder(config, False))
    held, trained = set(run.held_out.pool.tolist()), set(run.loader.pool)
    assert held and trained and not held & trained
    run = replace(run, held_out=run.loader)
    with pytest.raises(RuntimeError, match="both trained on and held out"):
        loop.train(run, 0, Recorder(run, MetricsLog(tmp_path / "log.jsonl")))


def test_a_policy_that_learns_asks_for_held_out_data(root, tmp_path):
    with pytest.raises(UsageError, match="data.holdout is 0; set data.holdout: 0.05"):
        distill(world.config(root, run=str(tmp_path / "run"), policy__name="gating"))
