"""The dry run: the whole way once, without a cache, with few samples; nothing is kept and the run's cost is said."""

import pytest

import world
from cmapkd.core.errors import UsageError
from cmapkd.tasks.validation import open_validation
from cmapkd.train.runs.distill import distill
from cmapkd.train.runs.dry_run import few, shortened


def test_a_dry_run_needs_no_cache_keeps_nothing_and_says_steps_memory_and_cache_bytes(root, tmp_path, capsys):
    config = world.config(root, run=str(tmp_path / "r"), cache__path=str(tmp_path / "none"), train__steps=500)
    assert distill(config, dry_run=True) == tmp_path / "r"
    said = capsys.readouterr().err
    assert "the run: 500 steps of 8" in said and "memory: at most" in said and "cache of 48 images × 2 views" in said
    assert not list(tmp_path.iterdir())


def test_a_dry_run_evaluates_few_samples_of_each_task(root):
    config = world.config(root)
    assert [len(s) for s in few(open_validation(config.data, config.eval), 5).samples.values()] == [5]


def test_a_dry_run_embeds_no_train_images_to_centre_a_student_that_it_drops(root):
    assert world.config(root).train.centre and not shortened(world.config(root), 1).train.centre


def test_a_dry_run_of_an_ensemble_without_a_finished_cache_takes_the_live_teacher(root, tmp_path):
    cache = shortened(
        world.config(root, cache__path=str(tmp_path / "a"), cache__ensemble=[str(tmp_path / "b")]), 1
    ).cache
    assert cache.path is None and cache.ensemble == ()


def test_a_dry_run_tells_that_the_run_folder_is_taken(root, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes.txt").touch()
    with pytest.raises(UsageError, match="already exists"):
        distill(world.config(root, run=str(tmp_path / "r")), dry_run=True)
