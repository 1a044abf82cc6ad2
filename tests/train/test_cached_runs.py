"""What a run has from the cache: the teacher's own word, read ahead and in part, or a refusal that names what is wrong."""

import shutil
import threading

import pytest

import toy
import world
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.core.types import LEVELS
from cmapkd.store.store import Store
from cmapkd.train.batches import inputs_of, step_inputs, training_batches
from cmapkd.train.runs import teacher_score
from cmapkd.train.runs.distill import distill
from cmapkd.train.runs.folder import prepare_folder
from cmapkd.train.runs.teacher_score import teacher_metrics
from cmapkd.train.schedule import stage_at
from cmapkd.train.setup import assemble as assembling
from cmapkd.train.setup import teachers
from cmapkd.train.setup.prepare import build_cache


def test_a_warm_cache_never_wakes_the_teacher(root, monkeypatch):
    teacher_metrics(world.config(root))  # the teacher's own score is kept beside the cache
    built, load = [], assembling.load_tower
    monkeypatch.setattr(teachers, "load_tower", lambda *_, **__: pytest.fail("the teacher was built"))
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
        run = assembling.assemble(config, prepare_folder(config, False))
        given = inputs_of(run, run.loader.batch(0), stage_at(run.stages, 0.0))
        losses = toy.losses(run.objective, run.state.learner, given)
        totals.append({k: float(v.detach()) for k, v in losses.items()})
    for name in totals[0]:
        assert abs(totals[0][name] - totals[1][name]) <= 3e-2 * abs(totals[1][name]) + 1e-3, name


def test_key_tokens_are_stored_with_their_places_and_teach_as_the_live_ones(root, tmp_path):
    over = {"cache__tokens": 5, "cache__path": str(root / "cache-tokens")}
    build_cache(world.config(root, **over))
    totals = []
    for path in (over["cache__path"], None):
        config = world.config(root, run=str(tmp_path / f"r{len(totals)}"), **{**over, "cache__path": path})
        run = assembling.assemble(config, prepare_folder(config, False))
        given = inputs_of(run, run.loader.batch(0), stage_at(run.stages, 0.0))
        tokens = given.teacher.levels["P2"]
        assert tokens.values.shape[1] == 5 and tokens.places.shape == (8, 5)
        losses = toy.losses(run.objective, run.state.learner, given)
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
    run = assembling.assemble(config, prepare_folder(config, False))
    image = run.teacher.image
    image.bytes_read.clear()
    inputs_of(run, run.loader.batch(0), stage_at(run.stages, 0.0))
    assert image.bytes_read["P5"] > 0 and image.bytes_read["P2"] == image.bytes_read["P4"] == 0


@pytest.mark.parametrize("over", [{}, {"policy__name": "veto", "data__holdout": 0.1}])
def test_teacher_outputs_are_read_while_the_step_before_is_trained(root, tmp_path, monkeypatch, over):
    threads = {}
    real = Store.read
    monkeypatch.setattr(
        Store,
        "read",
        lambda self, name, rows: (
            threads.setdefault(threading.current_thread().name, set()).add(name) or real(self, name, rows)
        ),
    )
    distill(world.config(root, run=str(tmp_path / "run"), **{"train__steps": 3, "eval__every": None, **over}))
    main = threading.main_thread().name
    assert any("P3" in read for name, read in threads.items() if name != main)


def test_a_level_that_fell_asleep_after_it_was_read_ahead_is_not_in_the_step(root, tmp_path):
    config = world.config(root, policy__name="veto", data__holdout=0.1, train__steps=3)
    run = assembling.assemble(config, tmp_path / "run")
    batches = training_batches(run, 0)
    step, prepared = next(batches)
    run.state.policy.asleep[LEVELS.index("P3")] = True
    given = step_inputs(run, prepared, step)
    batches.close()
    assert prepared.given is not None and "P3" in prepared.given.teacher.levels
    assert given.teacher is not None and "P3" not in given.teacher.levels and "P3" not in given.needs.levels


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
