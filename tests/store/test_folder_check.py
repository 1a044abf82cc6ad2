"""A cache is written only to a folder of its own with enough disk space."""

import pytest

import world
from cmapkd.core.errors import DataError, DiskError, UsageError
from cmapkd.store import folder_check
from cmapkd.store.folder_check import check_folder
from cmapkd.train.setup.prepare import build_cache


def test_a_file_or_a_folder_of_other_things_does_not_become_a_cache(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "photo.jpg", 1)
    with pytest.raises(UsageError, match=r"holds other files \(photo.jpg\)"):
        check_folder(tmp_path, 1)
    check_folder(tmp_path / "new", 1)


def test_a_cache_that_a_kill_left_is_gone_on_with(tmp_path):
    for name in ("calibration.safetensors.tmp.12", "image"):
        (tmp_path / name).mkdir()
    check_folder(tmp_path, 1)


def test_a_cache_that_will_not_fit_is_refused_before_the_teacher_runs(root, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_check.fsio, "free_bytes", lambda path: 1000)
    with pytest.raises(DiskError, match=r"and 0.0 MB are free, nothing written"):
        build_cache(world.config(root, cache__path=str(tmp_path / "cache")))
    assert not (tmp_path / "cache").exists()


def test_unreadable_images_stop_the_teachers_pass_beyond_the_budget_and_are_named_within_it(tmp_path, capsys, root):
    from pictures import coco

    path = coco(tmp_path, {f"{k}.png": [f"caption {k}"] for k in range(20)})
    for k in (3, 4):
        (tmp_path / "images" / f"{k}.png").write_bytes(b"cut")
    over = {"data__train": str(path), "data__val": None, "cache__path": str(tmp_path / "cache"), "cache__rank": 16,
            "cache__calibration_samples": 16}  # fmt: skip
    with pytest.raises(DataError, match="2 unreadable images, the budget is 1"):
        build_cache(world.config(root, **over))
    build_cache(world.config(root, **over, data__bad_budget=0.2))
    assert "2 unreadable images, which are not trained on: 3 (3.png" in capsys.readouterr().err
