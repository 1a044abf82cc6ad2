import pytest
import torch
import torch.nn.functional as F

import toy
from cmapkd.losses.promptkd import promptkd
from cmapkd.towers.prompts import Prompts


def test_the_loss_is_the_batch_mean_kl_over_the_number_of_classes():
    torch.manual_seed(0)
    student, teacher, t = 5 * torch.randn(6, 9), 5 * torch.randn(6, 9), 1.5
    kl = F.kl_div((student / t).log_softmax(1), (teacher / t).softmax(1), reduction="batchmean")
    torch.testing.assert_close(promptkd(student, teacher, t), t * t * kl / 9, atol=1e-6, rtol=1e-6)
    assert float(promptkd(teacher, teacher)) == pytest.approx(0, abs=1e-6)


def by_hand(visual, pixels, tokens):
    """The prompted tower written out: PromptKD's replacement of the last tokens before each block."""
    depth, count = tokens.shape[:2]
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(torch.cat([x, tokens[0].expand(len(x), -1, -1)], 1))
    for k, block in enumerate(visual.transformer.resblocks):
        if 0 < k < depth:
            x = torch.cat([x[:, :-count], tokens[k].expand(len(x), -1, -1)], 1)
        x = block(x)
    return visual.ln_post(x[:, 0]) @ visual.proj


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_deep_prompts_are_those_of_a_tower_written_by_hand(tmp_path, depth):
    tower = toy.tower(tmp_path)
    torch.manual_seed(0)
    prompts = Prompts(4, depth, 32)
    torch.nn.init.normal_(prompts.tokens)
    pixels = torch.randn(3, 3, 32, 32)
    plain = tower.image.native(pixels).detach()
    with prompts.around(tower.image.native):
        found = tower.image.native(pixels).detach()
        again = tower.image.native(pixels).detach()
    torch.testing.assert_close(found, by_hand(tower.image.native, pixels, prompts.tokens).detach())
    assert torch.equal(found, again) and float((found - plain).abs().max()) > 1e-2
    assert torch.equal(tower.image.native(pixels).detach(), plain)


def test_levels_of_a_prompted_tower_have_the_shapes_they_always_have(tmp_path):
    tower = toy.tower(tmp_path)
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with Prompts(4, 2, 32).around(tower.image.native):
        shapes = [level.shape for level in tower.image.levels(tower.normalise(images)).levels]
    assert shapes == [level.shape for level in tower.image.levels(tower.normalise(images)).levels]


def test_prompts_leave_no_hook_behind_even_after_an_error(tmp_path):
    tower = toy.tower(tmp_path)
    with pytest.raises(RuntimeError, match="stop"), Prompts(4, 2, 32).around(tower.image.native):
        raise RuntimeError("stop")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tower.modules())
