"""`cmapkd list families` says of every family what its toy models are."""

from __future__ import annotations

import pytest

from cmapkd.cli.listing import families as listed
from cmapkd.config.sources import TowerConfig
from cmapkd.pyramid.levels import PHRASE
from cmapkd.towers.families.known import FAMILIES
from cmapkd.towers.load import load_tower
from families import hugging_face, one_sided, open_clip

TOYS = open_clip.FAMILIES | hugging_face.FAMILIES | one_sided.FAMILIES
# Toy models whose name is not that of their family.
OF = {
    "open_clip-vit-apart": "open_clip-vit", "open_clip-registers": "open_clip-vit", "open_clip-pe-patches": "open_clip-pe",
    **dict.fromkeys([f"open_clip-{kind}" for kind in ("bert", "roberta", "xlm-roberta", "mt5", "m2m")], "open_clip-encoder"),
    **dict.fromkeys(["hf-vit-bert", "hf-swin-roberta", "hf-timm-bert"], "hf-vision-text"), "hf-blip-model": "hf-blip",
    **{name: "timm" for name in one_sided.FAMILIES if name.startswith("test_")},
}  # fmt: skip


def test_every_family_has_a_toy_model_and_a_line():
    with_toys = {OF.get(name, name) for name in TOYS} | {
        "module"
    }  # a module has no name; tests/train/test_user_module.py
    assert with_toys == set(FAMILIES)
    assert [name for name, _ in listed()] == list(FAMILIES)


@pytest.mark.parametrize("name", TOYS)
def test_a_line_says_what_the_model_is(name, tmp_path):
    family = FAMILIES[OF.get(name, name)]
    tower = load_tower(TowerConfig(model=TOYS[name](tmp_path / name)), words=9)
    assert ("blocks" if tower.image.single_scale else "stages") in family.image.split(" or ")
    assert tower.similarity.kind == family.similarity
    if family.text == "no texts":
        assert not tower.text.has_levels and tower.shape.sides == ("image",)
        return  # the folder of a student around it depends on the teacher's texts
    assert tower.package.library in family.folder
    ids, words = tower.tokenizer(["a red star above the tree", "two rings"])
    levels = tower.text.levels(ids, words).levels
    assert [level.shape[1] for level in levels] == [9, 9 // PHRASE, 1, 1]
