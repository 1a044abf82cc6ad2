import open_clip
import pytest
import torch

import toy
from cmapkd.towers.adapt import image_tower
from cmapkd.towers.shift import shifted
from cmapkd.towers.sources.open_clip import build

TIMM = {"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}


def clip_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind in ("RN50", "ViT-B-32"):
        return open_clip.create_model(kind, pretrained=None).eval()
    cfg = toy.config(64, size=32)
    if kind == "timm":
        cfg["vision_cfg"] = {**TIMM, "timm_proj_bias": False}
    if kind == "timm with a bias":
        cfg["vision_cfg"] = {**TIMM, "timm_proj_bias": True}
    return build(cfg).eval()


@pytest.mark.parametrize("kind", ["ViT", "RN50", "timm with a bias"])
def test_every_raw_embedding_loses_the_constant_and_the_tower_comes_back_to_the_bit(kind):
    clip = clip_of(kind)
    side = 224 if kind == "RN50" else 32
    images, other = torch.randn(2, 3, side, side), torch.randn(2, 3, side, side)
    state = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    with torch.no_grad():
        before = clip.encode_image(other)
        by = 0.7 * clip.encode_image(images).mean(0) + 0.01
        with shifted(image_tower(clip.visual, side, toy.MEAN, toy.STD), by, images) as done:
            torch.testing.assert_close(clip.encode_image(other), before - by, atol=1e-4, rtol=1e-4)
    assert done and all(tensor.equal(state[name]) for name, tensor in clip.state_dict().items())


@pytest.mark.parametrize("kind", ["timm", "bent"])
def test_a_tower_whose_biases_are_followed_by_an_activation_is_left_as_it_is(kind):
    clip, images = clip_of(kind), torch.randn(2, 3, 32, 32)
    if kind == "bent":  # its last norm and projection look as if they could
        clip.visual.register_forward_hook(lambda module, given, out: out.tanh())
    with torch.no_grad():
        before = clip.encode_image(images)
        with shifted(image_tower(clip.visual, 32, toy.MEAN, toy.STD), before.mean(0), images) as done:
            assert not done and clip.encode_image(images).equal(before)
