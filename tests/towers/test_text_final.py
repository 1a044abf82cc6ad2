"""A text tower of another family: it serves methods of final embeddings, and what needs levels is refused with the reason."""

import pytest
import torch
from torch import nn

import toy
import world
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.export.open_clip_folder import save_open_clip
from cmapkd.tasks.vqa.probe import Settings, build_head
from cmapkd.towers.load import load_tower
from cmapkd.towers.sources import open_clip as open_clip_source
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.prepare import build_cache

PLAIN_BUILD = build


class BagOfTokens(nn.Module):
    """A text tower without blocks: the mean of its token embeddings."""

    def __init__(self, vocabulary: int, width: int, context: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.vocab_size, self.context_length = vocabulary, context

    def forward(self, ids):
        real = (ids != 0)[..., None]
        return (self.table(ids) * real).sum(1) / real.sum(1)


def bag_build(cfg, *_, **__):
    """`build`, with a BagOfTokens in every CustomTextCLIP."""
    clip = PLAIN_BUILD(cfg)
    if cfg.get("custom_text"):
        text = cfg["text_cfg"]
        clip.text = BagOfTokens(text["vocab_size"], cfg["embed_dim"], text["context_length"])
    return clip


@pytest.fixture
def bag(tmp_path, monkeypatch):
    """The folder of an untrained model whose text tower is a BagOfTokens."""
    monkeypatch.setattr(open_clip_source, "build", bag_build)
    words = tok.train(toy.CAPTIONS, 128, 24, tmp_path / "words")
    cfg = toy.config(tok.vocabulary(words.folder), width=48, context=24) | {"custom_text": True}
    torch.manual_seed(3)
    image = {"mean": list(toy.MEAN), "std": list(toy.STD)}
    return save_open_clip(bag_build(cfg), cfg, image, words.folder, tmp_path / "bag", "toy")


def config(bag, tmp_path, method, **over):
    world.teacher_folder(tmp_path / "student-init", seed=1, width=32)
    return world.config(
        tmp_path, **{"teacher__model": f"local-dir:{bag}", "cache__path": None, "method": method, **over}
    )


def test_it_loads_says_that_it_has_no_levels_and_encodes(bag):
    tower = load_tower(TowerConfig(model=f"local-dir:{bag}"))
    x = toy.inputs(tower, 3)
    assert not tower.text.has_levels and tower.text.widths == tower.shape.text_widths == ()
    assert tower.final(x).text.shape == (3, 24) and len(tower.image.levels(tower.normalise(x.images)).levels) == 4
    assert torch.equal(tower.final(x).text, tower.native.text(x.ids))
    with pytest.raises(UsageError, match="BagOfTokens has no levels"):
        tower(x)


def test_it_teaches_and_learns_by_methods_of_final_embeddings(bag, tmp_path):
    taught = distill(config(bag, tmp_path, "clip_kd", run=str(tmp_path / "taught")))
    assert {"loss/fd", "loss/icl"} < set(world.rows(taught)[1])
    student = {"teacher__model": f"local-dir:{tmp_path / 'student-init'}", "student__model": str(bag)}
    learnt = distill(config(bag, tmp_path / "other", "clip_kd", run=str(tmp_path / "learnt"), **student))
    before, after = (load_tower(TowerConfig(model=f"local-dir:{f}")) for f in (bag, learnt / "student"))
    assert not torch.equal(before.text.native.table.weight, after.text.native.table.weight)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_method_of_levels_is_refused_naming_the_terms_and_the_way_out(bag, tmp_path, role):
    over = {"run": str(tmp_path / "run")}
    if role == "student":
        over |= {
            "teacher__model": f"local-dir:{world.teacher_folder(tmp_path / 'teacher')}",
            "student__model": str(bag),
        }
    with pytest.raises(
        UsageError, match=rf"{role}.model .* no levels L1-L4, but .* intra_l.* method: clip_kd"
    ) as caught:
        distill(config(bag, tmp_path, "cmapkd", **over))
    assert "\n" not in str(caught.value)


def test_a_cache_and_a_head_of_tokens_are_refused_too(bag, tmp_path):
    with pytest.raises(UsageError, match="no levels L1-L4, but these are needed by the cache"):
        build_cache(config(bag, tmp_path, "clip_kd", cache__path=str(tmp_path / "cache")))
    tower = load_tower(TowerConfig(model=f"local-dir:{bag}"))
    with pytest.raises(UsageError, match="needed by head 'coattention'"):
        build_head(tower, 5, Settings(head="coattention"))
    build_head(tower, 5, Settings(head="fusion"))
