"""Writing a cache again: what is whole is verified, what is damaged is mended."""

import world
from cmapkd.store.store import Store
from cmapkd.train.setup.prepare import build_cache


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
