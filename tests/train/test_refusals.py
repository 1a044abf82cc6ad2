"""What a run refuses before it begins or stops at half way, and that it leaves nothing in the way then."""

import pytest
import torch

import world
from cmapkd.config.load import dump_config
from cmapkd.core.errors import DataError, IntegrityError, NonFiniteError, UsageError
from cmapkd.core.lease import exclusive
from cmapkd.train.runs import distill as running
from cmapkd.train.runs.distill import LOCK, distill
from cmapkd.train.setup import assemble as assembling


def test_a_run_that_cannot_start_leaves_no_folder_in_the_way(root, tmp_path):
    with pytest.raises(UsageError, match="method 'cmpkd' is unknown"):
        distill(world.config(root, run=str(tmp_path / "run"), method="cmpkd"))
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_cannot_be_scored_leaves_no_folder_in_the_way(root, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "teacher_metrics", lambda *_: (_ for _ in ()).throw(DataError("no image")))
    with pytest.raises(DataError):
        distill(world.config(root, run=str(tmp_path / "r")))
    assert not (tmp_path / "r").exists()


def test_a_wrong_val_file_is_told_before_the_teacher_runs(root, tmp_path, monkeypatch):
    monkeypatch.setattr(assembling, "open_teacher", lambda *_: pytest.fail("the teacher was opened"))
    with pytest.raises(DataError, match="nope.json: no such file"):
        distill(world.config(root, run=str(tmp_path / "r"), data__val=str(tmp_path / "nope.json")))


def test_an_existing_run_is_never_overwritten(root):
    config = world.config(root, run=str(root / "once"), method="scratch", train__steps=2)
    distill(config)
    with pytest.raises(UsageError, match="never overwrites an old one: --resume"):
        distill(config)


def test_two_processes_cannot_train_in_one_folder(root, tmp_path):
    config = world.config(root, run=str(tmp_path / "run"), method="scratch", train__steps=2, eval__every=None)
    with exclusive(config.run / LOCK), pytest.raises(IntegrityError, match="in use by process"):
        distill(config)
    assert distill(config) == config.run, "a lease that was given back is no obstacle"
    with exclusive(config.run / LOCK), pytest.raises(IntegrityError, match="in use by process"):
        distill(config, resume=True)


def test_resuming_under_another_config_is_refused_naming_the_key(root):
    distill(world.config(root, run=str(root / "other"), method="scratch", train__steps=2))
    with pytest.raises(IntegrityError, match="'train.lr' is now 0.5 but was 0.001"):
        distill(
            world.config(root, run=str(root / "other"), method="scratch", train__steps=2, train__lr=0.5), resume=True
        )


def test_a_checkpoint_of_another_model_is_refused(root, tmp_path):
    a = distill(world.config(root, run=str(tmp_path / "a"), method="scratch", train__steps=2))
    world.teacher_folder(root / "wider", seed=1, width=64) if not (root / "wider").exists() else None
    config = world.config(
        root, run=str(tmp_path / "a"), method="scratch", train__steps=2, student__model=str(root / "wider")
    )
    (a / "config.yaml").write_text(dump_config(config))
    with pytest.raises(IntegrityError, match="is of another model"):
        distill(config, resume=True)


@pytest.mark.parametrize("term", ["intra_v", "align", "relation"])
def test_a_loss_that_is_not_finite_stops_before_the_update(root, tmp_path, monkeypatch, term):
    config = world.config(root, run=str(tmp_path / "run"), method="cmapkd_full")
    real, calls = assembling.Objective.losses, []

    def poisoned(self, *args):
        losses = real(self, *args)
        calls.append(1)
        return {**losses, term: losses[term] * float("nan")} if len(calls) == 3 else losses

    monkeypatch.setattr(assembling.Objective, "losses", poisoned)
    monkeypatch.setattr(assembling.Balance, "is_due", lambda *_: False)
    before = {}
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: (before.update(n=before.get("n", 0) + 1), step(self, *a))[1]
    )
    with pytest.raises(NonFiniteError, match=f"step 2: loss {term} is not finite"):
        distill(config)
    assert before["n"] == 2
    assert all(v.isfinite().all() for k, v in world.final_tensors(tmp_path / "run").items() if v.is_floating_point())
