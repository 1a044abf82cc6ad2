"""Texts are read only as far as the longest of a batch: same features and gradients, less computed, nothing left changed."""

import open_clip
import pytest
import torch
from torch import nn

import toy
from cmapkd.towers.adapt import adapt
from cmapkd.towers.families.trimmed import STEP, can_trim, trimmed_length, with_context
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.tokens import tokenizer as tok

CONTEXT = 4 * STEP


@pytest.fixture(params=[False, True], ids=["CLIP", "CustomTextCLIP"])
def tower(request, tmp_path):
    words = toy.tokenizer(tmp_path, CONTEXT)
    cfg = toy.config(tok.vocabulary(tmp_path), context=CONTEXT) | {"custom_text": request.param}
    torch.manual_seed(0)
    return adapt(build(cfg), words, 32, toy.MEAN, toy.STD, cfg, "toy", words=8)


def seen_and_grads(tower, x, lengths):
    """(features, gradients, columns that the text transformer computed)"""
    text = tower.text.native
    hook = text.transformer.resblocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    tower.zero_grad()
    features, final = tower.text.levels(x.ids, x.words), tower.final(x).text
    parts = [*features.levels, *features.pooled, features.final, final]
    torch.stack([part.square().sum() for part in parts]).sum().backward()
    hook.remove()
    return parts, {name: p.grad for name, p in tower.native.named_parameters() if p.grad is not None}


def test_features_and_gradients_are_those_of_the_whole_context(tower):
    x, lengths = toy.inputs(tower, 6), []
    assert tower.text.trims
    parts, grads = seen_and_grads(tower, x, lengths)
    tower.text.trims = False
    whole, all_grads = seen_and_grads(tower, x, lengths)
    assert lengths == [2 * STEP, 2 * STEP, CONTEXT, CONTEXT], "forward and final, trimmed and whole"
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(grads, all_grads)


def test_a_text_that_fills_the_context_is_read_to_its_end(tower):
    long = " ".join(["a red star above the small house"] * 9)
    ids, words = tower.tokenizer(["a red star", long])
    assert trimmed_length(ids, tower.tokenizer.end) == CONTEXT
    alone = tower.text.levels(*tower.tokenizer([long])).final
    torch.testing.assert_close(tower.text.levels(ids, words).final[1:], alone)
    torch.testing.assert_close(tower.text.encode(ids)[1:], alone)


def test_the_tower_is_as_before_after_a_call_and_after_one_that_fails(tower):
    text = tower.text.native
    positions, mask = text.positional_embedding, text.attn_mask
    names = list(tower.state_dict())
    tower.text.levels(*tower.tokenizer(["a red star"]))
    with pytest.raises(ZeroDivisionError):
        with_context(text, STEP, lambda: 1 / 0)
    assert text.positional_embedding is positions and isinstance(positions, nn.Parameter) and text.attn_mask is mask
    assert list(tower.state_dict()) == names


@pytest.mark.parametrize(
    "over",
    [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True, "pad_id": 0}],
    ids=lambda over: next(iter(over)),
)
def test_a_tower_that_looks_behind_the_end_is_read_whole(over):
    def text(**kwargs):
        return open_clip.transformer.TextTransformer(CONTEXT, 64, 32, 2, 2, output_dim=16, **kwargs)

    assert can_trim(text())
    assert not can_trim(text(**over))
