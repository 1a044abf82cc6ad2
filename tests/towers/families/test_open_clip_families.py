"""Every family of open_clip: final embeddings are the library's own, and levels are the hidden states that hooks read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import toy
from cmapkd.config.schema import TowerConfig
from cmapkd.pyramid import levels as lv
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower
from families.open_clip import CONTEXT, FAMILIES

VITS = {"vit", "vit-apart", "clipa", "eva02", "siglip", "pe", "pe-patches", "registers", "coca"}
MEANS = {"clipa", "siglip", "pe-patches", "registers"}  # ViTs whose embedding is formed from no class token
ENCODERS = {"bert", "roberta", "xlm-roberta", "mt5", "m2m"}
WHOLE = {"clipa", "siglip", "coca", "mobileclip"}  # texts that are read with their padding


class Towers:
    """Each family's toy, built when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root, self.built = root, {}

    def __getitem__(self, name: str) -> DualEncoder:
        if name not in self.built:
            model = FAMILIES[f"open_clip-{name}"](self.root / name)
            self.built[name] = load_tower(TowerConfig(model=model), words=8).eval()
        return self.built[name]


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return Towers(tmp_path_factory.mktemp("families"))


def each(names):
    return pytest.mark.parametrize("name", sorted(names))


def all_names():
    return {name.removeprefix("open_clip-") for name in FAMILIES}


def seen(modules, run) -> list[Any]:
    """The outputs of `modules` in one `run`."""
    found: list[Any] = [None] * len(modules)

    def keep(place):
        return lambda _module, _args, out: found.__setitem__(place, out[0] if isinstance(out, tuple) else out)

    hooks = [module.register_forward_hook(keep(place)) for place, module in enumerate(modules)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


@each(all_names())
@torch.no_grad()
def test_the_final_embeddings_are_those_of_the_library(towers, name):
    tower, x = towers[name], toy.inputs(towers[name], 3)
    image, text = tower.native.encode_image(tower.normalise(x.images)), tower.native.encode_text(x.ids)
    assert image.std(0).min() > 1e-4 and text.std(0).max() > 1e-4, "the toy tells its inputs apart"
    for found in (tower(x).image.final, tower.final(x).image):
        torch.testing.assert_close(found, image, rtol=0, atol=1e-5)
    for found in (tower(x).text.final, tower.final(x).text):
        torch.testing.assert_close(found, text, rtol=0, atol=1e-5)


def blocks_of(visual: Any) -> list[nn.Module]:
    return list(visual.transformer.resblocks if hasattr(visual, "transformer") else visual.trunk.blocks)


@each(VITS)
@torch.no_grad()
def test_the_levels_of_a_vit_are_its_blocks_outputs(towers, name):
    tower = towers[name]
    pixels, visual = tower.normalise(toy.inputs(tower, 3).images), tower.image.native
    states = seen(blocks_of(visual), lambda: visual(pixels))
    p2, p3, p4, p5 = tower.image.levels(pixels).levels
    patches = p4.shape[1]
    for level, state in zip((p2, p3, p4), (states[0], states[2], states[3]), strict=True):
        torch.testing.assert_close(level, state[:, -patches:])
    summary = states[3][:, -patches:].mean(1) if name in MEANS else states[3][:, 0]
    torch.testing.assert_close(p5[:, -2], summary)
    torch.testing.assert_close(p5[:, -1], p4.mean(1))
    assert tower.image.single_scale and (patches, p5.shape[1]) == (16, 4 + 2)


STAGES = {
    "rn": lambda visual: [visual.layer1, visual.layer2, visual.layer3, visual.layer4],
    "convnext": lambda visual: list(visual.trunk.stages),
    "mobileclip": lambda visual: list(visual.trunk.stages),
    "swin": lambda visual: list(visual.trunk.layers),
}


@each(STAGES)
@torch.no_grad()
def test_the_levels_of_a_tower_of_stages_are_its_stages_outputs(towers, name):
    tower = towers[name]
    pixels, visual = tower.normalise(toy.inputs(tower, 3).images), tower.image.native
    stages = seen(STAGES[name](visual), lambda: visual(pixels))
    found = tower.image.levels(pixels).levels
    for level, stage in zip(found[:3], stages[:3], strict=True):
        tokens = stage.flatten(1, 2) if name == "swin" else stage.flatten(2).transpose(1, 2)
        torch.testing.assert_close(level, tokens)
    assert not tower.image.single_scale and tower.shape.grids[0] == 8 * tower.shape.grids[3]


@each(all_names() - ENCODERS)
@torch.no_grad()
def test_the_levels_of_a_text_transformer_are_its_blocks_outputs(towers, name):
    tower, x = towers[name], toy.inputs(towers[name], 3)
    text = tower.text.native
    states = seen(list(text.transformer.resblocks), lambda: tower.native.encode_text(x.ids))
    words, phrases, sentence, pooled = tower.text.levels(x.ids, x.words).levels
    for level, state, window in ((words, states[0], 1), (phrases, states[2], lv.PHRASE)):
        expected, _ = lv.pool_words(state[:, :CONTEXT], x.words, level.shape[1], window)
        torch.testing.assert_close(level, expected)
    rows, ends = torch.arange(len(x.ids)), (x.ids == tower.tokenizer.end).int().argmax(1)
    real = [state[: end + 1].mean(0) for state, end in zip(states[3], ends, strict=True)]
    torch.testing.assert_close(sentence[:, 0], torch.stack(real))
    last = name in ("clipa", "siglip", "coca")  # the last position: of padding, or of the class token behind the text
    torch.testing.assert_close(pooled[:, 0], states[3][:, -1] if last else states[3][rows, ends])


def layers_of(transformer: Any) -> list[nn.Module]:
    return list(
        getattr(transformer, "block", None) or getattr(transformer, "layers", None) or transformer.encoder.layer
    )


@each(ENCODERS)
@torch.no_grad()
def test_the_levels_of_a_hugging_face_encoder_are_its_layers_outputs(towers, name):
    tower, x = towers[name], toy.inputs(towers[name], 3)
    text = tower.text.native
    states = seen([*layers_of(text.transformer), text.transformer, text.pooler], lambda: text(x.ids))
    words, phrases, sentence, pooled = tower.text.levels(x.ids, x.words).levels
    for level, state, window in ((words, states[0], 1), (phrases, states[1], lv.PHRASE)):
        torch.testing.assert_close(level, lv.pool_words(state, x.words, level.shape[1], window)[0])
    whole = text.transformer(input_ids=x.ids, attention_mask=(x.ids != 0).long()).last_hidden_state
    real = [state[: end + 1].mean(0) for state, end in zip(whole, (x.ids != 0).sum(1) - 1, strict=True)]
    torch.testing.assert_close(sentence[:, 0], torch.stack(real))
    torch.testing.assert_close(pooled[:, 0], states[-1])


@each(all_names())
@torch.no_grad()
def test_padding_is_left_out_only_where_the_tower_does_not_read_it(towers, name):
    tower, x = towers[name], toy.inputs(towers[name], 3)
    short = tower.text.trim(x.ids)
    assert (short.shape[1] == CONTEXT) == (name in WHOLE)
    longer = tower.text.levels(x.ids, x.words, trimmed=True)
    for found, expected in zip(tower.text.levels(x.ids, x.words).levels, longer.levels, strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tower.text.encode(short), tower.text.encode(x.ids))
