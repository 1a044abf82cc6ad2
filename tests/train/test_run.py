import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

import world
from cmapkd.cache.build import build_cache
from cmapkd.cache.store import Store
from cmapkd.config.load import dump_config
from cmapkd.config.schema import EvalConfig, Metric, TowerConfig
from cmapkd.core import fsio
from cmapkd.core.errors import DataError, IntegrityError, NonFiniteError, UsageError
from cmapkd.data.holdout import split_holdout
from cmapkd.models.load import load_tower
from cmapkd.models.necks import Necks
from cmapkd.tasks.validation import merged, open_validation
from cmapkd.train import assemble as assembling
from cmapkd.train import checkpoint, loop, state, teacher_score
from cmapkd.train import run as running
from cmapkd.train.run import LOCK, distill
from cmapkd.train.teacher_score import teacher_metrics


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_generation(checkpoint.latest(folder / "checkpoints"))[0]


def same(a: Path, b: Path) -> None:
    x, y = final_tensors(a), final_tensors(b)
    assert x.keys() == y.keys()
    for name in x:
        assert torch.equal(x[name], y[name]), name


def steps_of(folder: Path, kind: str = "train") -> list[int]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["kind"] == kind]


def test_a_run_folder_holds_everything_and_its_config_runs_again(root):
    folder = distill(world.config(root, run=str(root / "whole")))
    for name in ("config.yaml", "metrics.jsonl", "checkpoints", "best", "student/open_clip_config.json"):
        assert (folder / name).exists(), name
    assert steps_of(folder) == list(range(1, 9)) and steps_of(folder, "val") == [4, 8]


def test_same_seed_same_floats(root):
    a, b = (distill(world.config(root, run=str(root / f"twin{k}"))) for k in range(2))
    same(a, b)


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"train__accumulate": 2},
        *(
            {
                "policy__name": name,
                "policy__every": 1,
                "policy__collect": 0.1,
                "data__holdout": 0.2,
                "cache__path": "own",
            }
            for name in ("random", "veto", "routing", "rl")
        ),
    ],
)
def test_resuming_in_mid_epoch_is_bit_exact(root, tmp_path, monkeypatch, over):
    if over.get("cache__path"):
        over = {**over, "cache__path": str(root / "cache-held")}
        build_cache(world.config(root, **over))
    whole = distill(world.config(root, run=str(tmp_path / "whole"), **over))
    config = world.config(root, run=str(tmp_path / "cut"), **over)
    record = loop.record

    def cut(run, step, *rest):
        record(run, step, *rest)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "record", cut)
    with pytest.raises(KeyboardInterrupt):
        distill(config)
    monkeypatch.undo()
    os.environ["CMAPKD_DATA"] = str(root / "data")
    folder = distill(config, resume=True)
    same(whole, folder)
    assert steps_of(folder) == list(range(1, 9))
    rows = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (whole, folder)]
    told = [[row for row in own if row["kind"] in ("train", "policy")] for own in rows]
    assert told[0] == told[1], "the log of a resumed run is that of one that was never cut"


def test_a_warm_cache_never_wakes_the_teacher(root, monkeypatch):
    teacher_metrics(world.config(root))  # the teacher's own score is kept beside the cache
    built, load = [], assembling.load_tower
    monkeypatch.setattr(teacher_score, "load_tower", lambda *_, **__: pytest.fail("the teacher was built"))
    monkeypatch.setattr(
        assembling, "load_tower", lambda config, *a, **k: built.append(config.model) or load(config, *a, **k)
    )
    distill(world.config(root, run=str(root / "warm")))
    assert built == [str(root / "student-init")]


def test_cached_and_live_teaching_agree(root, tmp_path):
    totals = []
    for path in (str(root / "cache"), None):
        config = world.config(root, run=str(tmp_path / f"r{len(totals)}"), cache__path=path)
        run = assembling.assemble(config, running.prepare_folder(config, False))
        batch, moment = run.loader.batch(0), assembling.at(run.stages, 0.0)
        teaching = state.teach(run, batch, moment)
        outputs = loop.stepping.forward(run.learner, batch.student, run.objective.levels(moment), None, torch.float32)
        losses = run.objective.losses(outputs, teaching, batch, moment)
        totals.append({k: float(v.detach()) for k, v in losses.items()})
    for name in totals[0]:
        assert abs(totals[0][name] - totals[1][name]) <= 3e-2 * abs(totals[1][name]) + 1e-3, name


def test_key_tokens_are_stored_with_their_places_and_teach_as_the_live_ones(root, tmp_path):
    over = {"cache__tokens": 5, "cache__path": str(root / "cache-tokens")}
    build_cache(world.config(root, **over))
    totals = []
    for path in (over["cache__path"], None):
        config = world.config(root, run=str(tmp_path / f"r{len(totals)}"), **{**over, "cache__path": path})
        run = assembling.assemble(config, running.prepare_folder(config, False))
        batch, moment = run.loader.batch(0), assembling.at(run.stages, 0.0)
        teaching = state.teach(run, batch, moment)
        assert teaching.levels["P2"].shape[1] == 5 and teaching.places.shape == (8, 5)
        outputs = loop.stepping.forward(run.learner, batch.student, run.objective.levels(moment), None, torch.float32)
        losses = run.objective.losses(outputs, teaching, batch, moment)
        totals.append({k: float(v.detach()) for k, v in losses.items()})
    for name in totals[0]:
        assert abs(totals[0][name] - totals[1][name]) <= 3e-2 * abs(totals[1][name]) + 1e-3, name
    assert (
        Store(root / "cache-tokens" / "image").fields["P2"].nbytes < Store(root / "cache" / "image").fields["P2"].nbytes
    )


def test_a_level_that_is_off_is_not_read_from_the_cache(root, tmp_path):
    config = world.config(
        root, run=str(tmp_path / "run"), schedule=[{"name": "deep", "until": 1.0, "levels": ["P5", "L4"]}]
    )
    run = assembling.assemble(config, running.prepare_folder(config, False))
    image = run.teacher.image
    image.bytes_read.clear()
    state.teach(run, run.loader.batch(0), assembling.at(run.stages, 0.0))
    assert image.bytes_read["P5"] > 0 and image.bytes_read["P2"] == image.bytes_read["P4"] == 0


def test_the_task_loss_trains_on_labelled_folders_and_asks_for_labels(root, tmp_path):
    over = {"method": "scratch", "weights": {"task": 1.0}, "train__steps": 3, "eval__every": None}
    folder = distill(world.config(root, run=str(tmp_path / "a"), data__train="scenes:objects:1:train", **over))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[1]["loss/task"] > 0
    with pytest.raises(UsageError, match="needs labelled data, but .* has captions only"):
        distill(world.config(root, run=str(tmp_path / "b"), **over))


def test_an_existing_run_is_never_overwritten(root):
    config = world.config(root, run=str(root / "once"), method="scratch", train__steps=2)
    distill(config)
    with pytest.raises(UsageError, match="never overwrites an old one: --resume"):
        distill(config)


def test_a_run_that_cannot_start_leaves_no_folder_in_the_way(root, tmp_path):
    with pytest.raises(UsageError, match="method 'cmpkd' is unknown"):
        distill(world.config(root, run=str(tmp_path / "run"), method="cmpkd"))
    assert not (tmp_path / "run").exists()


def test_resuming_under_another_config_is_refused_naming_the_key(root):
    distill(world.config(root, run=str(root / "other"), method="scratch", train__steps=2))
    with pytest.raises(IntegrityError, match="'train.lr' is now 0.5 but was 0.001"):
        distill(
            world.config(root, run=str(root / "other"), method="scratch", train__steps=2, train__lr=0.5), resume=True
        )


@pytest.mark.parametrize(
    "over, message",
    [
        ({"data__train": "scenes:40:train"}, "'data' is"),
        ({"data__views": 3}, "'views' is"),
        ({"data__flip": True}, "'views' is"),
        ({"data__crop": [0.1, 1.0]}, "'views' is"),
        ({"cache__rank": 16}, "'rank' is"),
        ({"cache__dtype": "fp16"}, "'dtype' is"),
        ({"cache__grid": 2}, "'grid' is"),
        ({"cache__tokens": 5}, "'grid' is"),
        ({"cache__words": 10}, "'words' is"),
        ({"cache__calibration_samples": 40}, "'calibration' is"),
        ({"data__holdout": 0.3}, "'calibration' is"),
        ({"teacher__model": "STUDENT"}, "'teacher architecture' is|'teacher weights' is"),
    ],
)
def test_a_stale_cache_is_refused_naming_the_field(root, tmp_path, over, message):
    over = {k: f"local-dir:{root / 'student-init'}" if v == "STUDENT" else v for k, v in over.items()}
    with pytest.raises(IntegrityError, match=message):
        distill(world.config(root, run=str(tmp_path / "run"), **over))


def test_a_missing_cache_says_how_to_write_it(root, tmp_path):
    with pytest.raises(UsageError, match="run `cmapkd cache` with this config first"):
        distill(world.config(root, run=str(tmp_path / "run"), cache__path=str(tmp_path / "none")))


def test_a_level_that_sleeps_is_neither_read_nor_computed(root, monkeypatch):
    read, adapted = set(), set()
    real_read, real_level = Store.read, Necks.level
    monkeypatch.setattr(Store, "read", lambda self, name, rows: read.add(name) or real_read(self, name, rows))
    monkeypatch.setattr(Necks, "level", lambda self, name, x: adapted.add(name) or real_level(self, name, x))
    monkeypatch.setattr(assembling, "measure_units", lambda run: None)  # these two look at every level
    monkeypatch.setattr(running, "measure_saving", lambda run: {})
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
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = (row for row in rows if row.get("kind") == "train")
    assert first["levels"] == 8 and last["levels"] == 0 and rows[-1]["kind"] == "final"
    assert {"loss/align", "loss/fd"} <= set(last) and not {"loss/intra_v", "loss/relation"} & set(last)
    assert last["grad_norm"] > 0, "the final terms go on teaching"


def test_a_credit_event_whose_held_out_batch_is_trained_on_stops_the_run(root, tmp_path):
    over = {"policy__name": "veto", "policy__every": 1, "data__holdout": 0.2, "cache__path": None}
    config = world.config(root, run=str(tmp_path / "run"), **over)
    run = assembling.assemble(config, running.prepare_folder(config, False))
    held, trained = set(run.held_out.pool.tolist()), set(run.loader.pool.tolist())
    assert held and trained and not held & trained
    run.held_out = run.loader
    with pytest.raises(RuntimeError, match="both trained on and held out"):
        loop.train(run, 0, loop.MetricsLog(tmp_path / "log.jsonl"))


def test_a_policy_that_learns_asks_for_held_out_data(root, tmp_path):
    with pytest.raises(UsageError, match="data.holdout is 0; set data.holdout: 0.05"):
        distill(world.config(root, run=str(tmp_path / "run"), policy__name="gating"))


def test_the_split_keeps_its_share_out_and_loses_nothing():
    pool, held = split_holdout(48, 0.2)
    assert len(held) == 10 and not set(pool) & set(held) and len(set(pool) | set(held)) == 48


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
    assert all(v.isfinite().all() for k, v in final_tensors(tmp_path / "run").items() if v.is_floating_point())


def test_a_checkpoint_of_another_model_is_refused(root, tmp_path):
    a = distill(world.config(root, run=str(tmp_path / "a"), method="scratch", train__steps=2))
    world.teacher_folder(root / "wider", seed=1, width=64) if not (root / "wider").exists() else None
    config = world.config(
        root, run=str(tmp_path / "a"), method="scratch", train__steps=2, student__model=str(root / "wider")
    )
    (a / "config.yaml").write_text(dump_config(config))
    with pytest.raises(IntegrityError, match="is of another model"):
        distill(config, resume=True)


def test_a_finished_cache_is_verified_and_its_canaries_re_encoded(root, capsys):
    build_cache(world.config(root))
    assert "8 images re-encoded" in capsys.readouterr().err
    assert Store(root / "cache" / "image").rows == 96


def test_a_damaged_shard_of_a_finished_cache_is_mended_by_writing_the_cache_again(root):
    config = world.config(root, cache__path=str(root / "cache-mended"))
    build_cache(config)
    file = root / "cache-mended" / "image" / "P3-00001.npy"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    build_cache(config)
    assert file.read_bytes() == good


SCRIPT = """
import sys
from pathlib import Path
from typing import get_args
from cmapkd.config.load import load_config
from cmapkd.train.run import LOCK, distill
from cmapkd.train.teacher_score import teacher_metrics
distill(load_config(Path(sys.argv[1])), resume=len(sys.argv) > 2)
"""


def test_kill_minus_nine_loses_no_checkpoint_and_the_run_ends_the_same(root, tmp_path):
    over = {"train__steps": 40, "train__checkpoint_every": 1, "eval__every": None, "method": "scratch"}
    whole = distill(world.config(root, run=str(tmp_path / "whole"), **over))
    folder, path = tmp_path / "killed", tmp_path / "config.yaml"
    path.write_text(dump_config(world.config(root, run=str(folder), **over)))
    rng, reached = random.Random(0), 0
    for attempt in range(int(os.environ.get("CMAPKD_FAULTS", "3"))):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(path), *(["resume"] if attempt else [])], env=os.environ
        )
        deadline = time.time() + 60
        while process.poll() is None and not (folder / "checkpoints").exists() and time.time() < deadline:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        last = checkpoint.latest(folder / "checkpoints")
        step = int(last.name.removeprefix("step-")) if last else 0
        assert step >= reached
        reached = step
    distill(world.config(root, run=str(folder), **over), resume=(folder / "config.yaml").exists())
    same(whole, folder)
    assert steps_of(folder) == list(range(1, 41))


def test_signals_are_the_callers_again_after_training(root, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    distill(world.config(root, run=str(tmp_path / "run"), method="scratch", train__steps=2, eval__every=None))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_two_processes_cannot_train_in_one_folder(root, tmp_path):
    config = world.config(root, run=str(tmp_path / "run"), method="scratch", train__steps=2, eval__every=None)
    with fsio.exclusive(config.run / LOCK), pytest.raises(IntegrityError, match="in use by process"):
        distill(config)
    assert distill(config) == config.run, "a lease that was given back is no obstacle"
    with fsio.exclusive(config.run / LOCK), pytest.raises(IntegrityError, match="in use by process"):
        distill(config, resume=True)


def test_sigterm_finishes_the_step_and_exits_with_143(root, tmp_path):
    over = {"train__steps": 4000, "train__checkpoint_every": 4000, "eval__every": None, "method": "scratch"}
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(world.config(root, run=str(tmp_path / "run"), **over)))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], env=os.environ)
    deadline = time.time() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    process.terminate()
    assert process.wait(30) == 143
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") is not None


def test_a_key_that_is_newer_than_the_run_has_its_default(root, tmp_path):
    config = world.config(root, run=str(tmp_path / "old"), train__steps=2, eval__every=None)
    folder = distill(config)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text("".join(line for line in text.splitlines(True) if "regions:" not in line))
    assert distill(config, resume=True) == folder
    with pytest.raises(IntegrityError, match=r"'train\.lr' is now 0\.5 but was"):
        distill(
            world.config(root, run=str(tmp_path / "old"), train__steps=2, eval__every=None, train__lr=0.5), resume=True
        )


def test_a_wrong_val_file_is_told_before_the_teacher_runs(root, tmp_path, monkeypatch):
    monkeypatch.setattr(assembling, "open_teacher", lambda *_: pytest.fail("the teacher was opened"))
    with pytest.raises(DataError, match="nope.json: no such file"):
        distill(world.config(root, run=str(tmp_path / "r"), data__val=str(tmp_path / "nope.json")))


def test_best_can_be_chosen_by_every_metric_that_a_validation_gives_and_by_no_other(root, tmp_path):
    more_is_better = set(get_args(Metric)) - {"head/acc1"}
    validation = open_validation(
        world.config(root, eval__tasks=["retrieval", "zeroshot"], eval__zeroshot="scenes:objects:8:val")
    )
    tower = load_tower(TowerConfig(model=str(root / "student-init")))
    given = merged(validation.scores(tower))
    assert more_is_better == {name for name in given if "medr" not in name}
    for wrong in (
        {"metric": "mean_recal@1"},
        {"metric": "zeroshot/acc1", "every": 2},
        {"tasks": ["zeroshot"], "every": 2},
    ):
        with pytest.raises(ValidationError):
            EvalConfig.model_validate(wrong)


@pytest.mark.parametrize("name", ["teacher.json", "calibration.json"])
def test_a_torn_record_of_the_cache_is_refused_naming_it(root, tmp_path, name):
    shutil.copytree(root / "cache", tmp_path / "cache")
    (tmp_path / "cache" / name).write_text('{"key": {')
    with pytest.raises(IntegrityError, match=f"{name}: corrupt; delete it and run"):
        distill(world.config(root, run=str(tmp_path / "r"), cache__path=str(tmp_path / "cache")))


def test_a_torn_record_of_the_teachers_score_is_scored_again(root, tmp_path):
    shutil.copytree(root / "cache", tmp_path / "cache")
    (tmp_path / "cache" / "scores.json").write_text("{")
    config = world.config(root, cache__path=str(tmp_path / "cache"))
    assert teacher_metrics(config) == teacher_metrics(config) != {}


def test_a_teacher_that_cannot_be_scored_leaves_no_folder_in_the_way(root, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "teacher_metrics", lambda *_: (_ for _ in ()).throw(DataError("no image")))
    with pytest.raises(DataError):
        distill(world.config(root, run=str(tmp_path / "r")))
    assert not (tmp_path / "r").exists()


def test_the_best_student_so_far_is_an_open_clip_folder_that_scores_as_it_did(root, tmp_path):
    folder = distill(world.config(root, run=str(tmp_path / "r"), eval__every=1, train__steps=5))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max((row for row in rows if row["kind"] == "val"), key=lambda row: row["mean_recall@1"])
    score = open_validation(world.config(root)).scores(load_tower(TowerConfig(model=str(folder / "best"))))
    assert merged(score) == {name: best[name] for name in merged(score)}
    card = (folder / "best" / "README.md").read_text()
    assert f"kept: best mean_recall@1 {best['mean_recall@1']:.4f}, at step {best['step']}" in card
    assert "No licence was stated" in card


def test_the_teachers_word_is_read_while_the_step_before_is_trained(root, tmp_path, monkeypatch):
    threads = {}
    real = Store.read
    monkeypatch.setattr(
        Store,
        "read",
        lambda self, name, rows: (
            threads.setdefault(threading.current_thread().name, set()).add(name) or real(self, name, rows)
        ),
    )
    over = {"train__steps": 3, "eval__every": None}
    distill(world.config(root, run=str(tmp_path / "early"), **over))
    assert "P3" in threads["loader"]
    threads.clear()
    distill(world.config(root, run=str(tmp_path / "late"), policy__name="veto", data__holdout=0.1, **over))
    assert "loader" not in threads, "what a policy that learns puts to sleep is known in the step itself"
