"""`cmapkd cache verify`: a sound cache passes, a damaged file is named, an unfinished cache is said to be unfinished."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

import world
from cmapkd.cli.main import dispatch, main
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.data.pixels import write_pixels
from cmapkd.data.readers import open_samples


@pytest.fixture
def cache(root, tmp_path):
    """A finished cache with a pixels store."""
    folder = tmp_path / "cache"
    shutil.copytree(root / "cache", folder)
    config = world.config(root, cache__path=str(folder), cache__pixels=True)
    samples = open_samples(config.data.train, config.data, config.data.train_split)
    write_pixels(samples, config.data, config.cache, 32)
    return folder


def verify(folder, *more):
    return dispatch(["cache", "verify", "--config", "scenes", f"cache.path={folder}", *more])


def test_a_sound_cache_passes_in_one_line_with_its_stores_files_and_bytes(cache, capsys):
    assert verify(cache) == 0
    names = [p for p in cache.rglob("*") if p.suffix in (".npy", ".xxh3", ".safetensors")]
    checked = [*names, cache / "calibration.json", *cache.glob("*/manifest.json")]
    size = sum(path.stat().st_size for path in checked)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"cache {cache}: image, text, pixels-32 and calibration verified, {len(checked)} files, {size / 1e6:.1f} MB"
    )


@pytest.mark.parametrize(
    "name",
    ["image/P3-00001.npy", "text/final-00000.xxh3", "pixels-32/pixels-00000.npy", "text/manifest.json",
     "calibration.safetensors"],
)  # fmt: skip
def test_one_flipped_byte_is_exit_code_4_and_names_the_file(cache, capsys, name):
    content = bytearray((cache / name).read_bytes())
    content[len(content) // 2] ^= 1
    (cache / name).write_bytes(content)
    assert main(["cache", "verify", "--config", "scenes", f"cache.path={cache}"]) == 4
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and name.rpartition("/")[2] in err


@pytest.mark.parametrize("name", ["image/P3-00001.npy", "calibration.safetensors", "calibration.json"])
def test_a_missing_file_is_named(cache, name):
    (cache / name).unlink()
    with pytest.raises(IntegrityError, match=name.rpartition("/")[2]):
        verify(cache)


@pytest.mark.parametrize("name", ["teacher.json", "image/manifest.json", "pixels-32/manifest.json"])
def test_an_unfinished_cache_is_one_line_that_says_how_to_finish_it(cache, capsys, name):
    (cache / name).unlink()
    (cache / name).with_name("building.json").write_text("{}")
    assert main(["cache", "verify", "--config", "scenes", f"cache.path={cache}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "is unfinished" in err and "run `cmapkd cache --config …`" in err


def test_a_cache_that_does_not_exist_or_has_no_path_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        verify(tmp_path / "none")
    with pytest.raises(UsageError, match=r"cache\.path is not set"):
        verify("null")
    with pytest.raises(UsageError, match="leave --estimate out"):
        verify(tmp_path / "none", "--estimate")


def test_verifying_imports_no_torch_and_builds_no_teacher(cache):
    code = (
        "import sys; from cmapkd.cli.main import main\n"
        f"assert main(['cache', 'verify', '--config', 'scenes', 'cache.path={cache}']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
