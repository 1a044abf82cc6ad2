"""A text tower of another family: it serves all terms of final embeddings and of images; terms of its levels are off."""

import pytest
import torch
from torch import nn

import toy
import world
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.types import IMAGE_LEVELS
from cmapkd.export.open_clip_folder import save_open_clip
from cmapkd.store.store import Store
from cmapkd.tasks.vqa.probe import Settings, build_head
from cmapkd.towers.load import load_tower
from cmapkd.towers.sources import open_clip as open_clip_source
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.train.batches import inputs_of
from cmapkd.train.runs.distill import distill
from cmapkd.train.runs.folder import prepare_folder
from cmapkd.train.schedule import stage_at
from cmapkd.train.setup.assemble import assemble
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
    if not (tmp_path / "student-init").is_dir():
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
    assert tower.shape.levels == IMAGE_LEVELS and tower(x).text.levels == ()


def test_it_teaches_and_learns_by_methods_of_final_embeddings(bag, tmp_path):
    taught = distill(config(bag, tmp_path, "clip_kd", run=str(tmp_path / "taught")))
    assert {"loss/fd", "loss/icl"} < set(world.rows(taught)[1])
    student = {"teacher__model": f"local-dir:{tmp_path / 'student-init'}", "student__model": str(bag)}
    learnt = distill(config(bag, tmp_path / "other", "clip_kd", run=str(tmp_path / "learnt"), **student))
    before, after = (load_tower(TowerConfig(model=f"local-dir:{f}")) for f in (bag, learnt / "student"))
    assert not torch.equal(before.text.native.table.weight, after.text.native.table.weight)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_method_of_levels_goes_on_with_those_of_images_and_says_what_is_off(bag, tmp_path, role, capfd):
    over = {"run": str(tmp_path / "run"), "train__steps": 2}
    if role == "student":
        other = world.teacher_folder(tmp_path / "teacher")
        over |= {"teacher__model": f"local-dir:{other}", "student__model": str(bag)}
    run = distill(config(bag, tmp_path, "cmapkd", **over))
    first = next(row for row in world.rows(run) if "loss/fd" in row)
    assert {"loss/intra_v", "loss/fd", "loss/logits"} < set(first)
    assert not {"loss/intra_l", "loss/pyramid_align"} & set(first)
    lines = [line for line in capfd.readouterr().err.splitlines() if "off: " in line]
    assert len(lines) == 1 and "intra_l, pyramid_align" in lines[0] and f"{role} " in lines[0]
    assert "gives no L1, L2, L3, L4" in lines[0]


def test_a_method_of_texts_alone_is_refused_naming_the_way_out(bag, tmp_path):
    settings = {"weights": {"intra_v": 0.0, "logits": 0.0, "fd": 0.0, "icl": 0.0, "pyramid_align": 0.0}}
    with pytest.raises(UsageError, match=r"intra_l: teacher .* gives no L1.*use method: ") as caught:
        distill(config(bag, tmp_path, "cmapkd", **settings))
    assert "\n" not in str(caught.value)


def test_its_cache_holds_the_final_embeddings_of_texts_alone_and_teaches_as_the_live_teacher(bag, tmp_path):
    cache = str(tmp_path / "cache")
    build_cache(config(bag, tmp_path, "cmapkd", cache__path=cache))
    assert set(Store(tmp_path / "cache" / "text").fields) == {"final"}
    found = []
    for path in (cache, None):
        one = config(bag, tmp_path, "cmapkd", cache__path=path, run=str(tmp_path / f"r{len(found)}"))
        run = assemble(one, prepare_folder(one, False))
        given = inputs_of(run, run.loader.batch(0), stage_at(run.stages, 0.0))
        found.append({k: float(v.detach()) for k, v in toy.losses(run.objective, run.state.learner, given).items()})
    assert found[0].keys() == found[1].keys() >= {"intra_v", "fd"}
    for name, value in found[0].items():
        assert abs(value - found[1][name]) <= 3e-2 * abs(value) + 1e-3, name


def test_a_head_of_tokens_is_refused(bag):
    tower = load_tower(TowerConfig(model=f"local-dir:{bag}"))
    with pytest.raises(UsageError, match="gives no words .* head 'coattention'"):
        build_head(tower, 5, Settings(head="coattention"))
    build_head(tower, 5, Settings(head="fusion"))
