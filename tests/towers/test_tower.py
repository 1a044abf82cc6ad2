import copy
import json
import math

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import toy
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.types import Inputs
from cmapkd.towers.adapt import adapt
from cmapkd.towers.dual import DualEncoder, evaluating
from cmapkd.towers.load import load_tower
from cmapkd.towers.named import architecture_config, identity
from cmapkd.towers.similarity import Similarity
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.sources.weights import read_state
from cmapkd.towers.tokens import tokenizer as tok


def test_features_have_the_shapes_the_tower_promises(tmp_path):
    tower = toy.tower(tmp_path)
    features = tower(toy.inputs(tower, 3))
    assert [t.shape[1] for t in features.image.levels] == [16, 16, 16, 6]
    assert [t.shape[1] for t in features.text.levels] == [8, 3, 1, 1]
    assert features.image.final.shape == features.text.final.shape == (3, 24)
    assert tower.shape.grids == (4, 4, 4, 2)


def test_final_features_equal_open_clips_own_encoders(tmp_path):
    tower = toy.tower(tmp_path)
    x = toy.inputs(tower, 4)
    with evaluating(tower), torch.no_grad():
        features = tower(x)
        torch.testing.assert_close(features.image.final, tower.native.encode_image(tower.normalise(x.images)))
        torch.testing.assert_close(features.text.final, tower.native.encode_text(x.ids))


def test_padding_changes_no_text_level(tmp_path):
    tower = toy.tower(tmp_path).eval()
    x = toy.inputs(tower, 2)
    ends = (x.ids == tower.tokenizer.end).int().argmax(1)
    after = torch.arange(x.ids.shape[1])[None] > ends[:, None]
    other = Inputs(x.images, torch.where(after, torch.full_like(x.ids, 7), x.ids), x.words)
    for a, b in zip(tower(x).text.levels, tower(other).text.levels, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layers", [3, 5, 7])
def test_any_depth_has_four_levels_per_modality(tmp_path, layers):
    tower = toy.tower(tmp_path, layers=layers)
    features = tower(toy.inputs(tower, 2))
    assert len(features.image.levels) == len(features.text.levels) == 4


def small_cfg(vision: dict) -> dict:
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}


@pytest.mark.parametrize(
    "vision, grids",
    [
        ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 64}, (16, 8, 4, 2)),
        ({"timm_model_name": "resnet10t", "image_size": 64, "timm_pool": "avg", "timm_proj": "linear"}, (16, 8, 4, 2)),
        (
            {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": "", "timm_proj": "linear"},
            (14, 14, 14, 7),
        ),
    ],
)
def test_resnets_and_timm_trunks_have_the_same_levels(vision, grids):
    cfg = small_cfg(vision)
    words = tok.from_open_clip(open_clip.SimpleTokenizer(context_length=77), 77)
    tower = adapt(build(cfg), words, vision["image_size"], toy.MEAN, toy.STD, cfg, "small", words=8).eval()
    features = tower(toy.inputs(tower, 2))
    assert tower.shape.grids == grids
    assert features.image.final.shape == (2, 16)
    with torch.no_grad():
        x = toy.inputs(tower, 2).images
        torch.testing.assert_close(
            tower.image.levels(tower.normalise(x)).final, tower.native.encode_image(tower.normalise(x))
        )


def test_tokens_equal_open_clips_tokenizer_and_know_their_words():
    reference = open_clip.SimpleTokenizer(context_length=77)
    wrapped = tok.from_open_clip(reference, 77)
    texts = ["A man isn't riding 3 horses !", "café, naïve — déjà vu", "  two   spaces\tand a tab "]
    ids, words = wrapped(texts)
    assert torch.equal(ids, reference(texts))
    assert words[0].max() == len(texts[0].split()) - 1
    assert (words[:, 0] == -1).all()


def test_a_text_longer_than_the_context_keeps_its_end_token(tmp_path):
    words = toy.tokenizer(tmp_path)
    ids, _ = words(["red star " * 40])
    assert ids[0, -1] == words.end and ids.shape == (1, 16)


def test_a_tokenizer_trained_twice_on_the_same_captions_is_the_same_file(tmp_path):
    files = set()
    for name in "abcd":
        toy.tokenizer(tmp_path / name)
        files.add((tmp_path / name / "tokenizer.json").read_bytes())
    assert len(files) == 1


def test_a_trained_tokenizer_has_its_end_token_as_largest_id(tmp_path):
    words = toy.tokenizer(tmp_path)
    assert words.end == tok.vocabulary(tmp_path) - 1 and words.pad == 0


def test_unknown_characters_become_unknown_not_nothing(tmp_path):
    ids, index = toy.tokenizer(tmp_path)(["red 犬 star"])
    assert (index[0] == 1).any() and ids[0].max() == toy.tokenizer(tmp_path).end


def folder_of(tower: DualEncoder, path, tokenizer_folder) -> None:
    path.mkdir()
    (path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": tower.package.config, "preprocess_cfg": {"mean": toy.MEAN, "std": toy.STD}})
    )
    save_file(
        {k: v.contiguous() for k, v in tower.native.state_dict().items()}, str(path / "open_clip_model.safetensors")
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_text((tokenizer_folder / name).read_text())


def test_an_open_clip_folder_loads_bit_identically(tmp_path):
    tower = toy.tower(tmp_path / "tok")
    folder_of(tower, tmp_path / "model", tmp_path / "tok")
    again = load_tower(TowerConfig(model=f"local-dir:{tmp_path / 'model'}"), words=8)
    x = toy.inputs(tower, 2)
    assert torch.equal(tower.eval()(x).image.final, again.eval()(x).image.final)
    assert (again.image.mean, again.image.std) == (toy.MEAN, toy.STD)


def test_an_openai_style_state_dict_loads_with_quick_gelu(tmp_path):
    cfg = architecture_config("cmapkd-small-64")
    clip = build({**cfg, "quick_gelu": True})
    state = clip.state_dict() | {
        "input_resolution": torch.tensor(64),
        "context_length": torch.tensor(40),
        "vocab_size": torch.tensor(49408),
    }
    torch.save(state, tmp_path / "openai.pt")
    tower = load_tower(TowerConfig(model=f"cmapkd-small-64:{tmp_path / 'openai.pt'}"))
    assert tower.package.config["quick_gelu"] is True
    assert torch.equal(tower.native.token_embedding.weight, clip.token_embedding.weight)


def test_a_torchscript_archive_gives_its_tensors(tmp_path):
    module = torch.jit.script(torch.nn.Linear(3, 2))
    module.save(str(tmp_path / "scripted.pt"))
    assert set(read_state(tmp_path / "scripted.pt")) == {"weight", "bias"}


class Gadget:
    def __reduce__(self):
        return print, ("a pickle ran",)


def test_a_pickle_is_refused_and_never_run(tmp_path, capsys):
    torch.save({"weights": Gadget()}, tmp_path / "evil.pt")
    with pytest.raises(UsageError, match="no table of tensors alone"):
        read_state(tmp_path / "evil.pt")
    assert "a pickle ran" not in capsys.readouterr().out


def test_weights_of_another_architecture_are_refused_naming_a_tensor(tmp_path):
    clip = build(architecture_config("cmapkd-small-96"))
    save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, str(tmp_path / "w.safetensors"))
    with pytest.raises(UsageError, match="are not of model 'cmapkd-base-96"):
        load_tower(TowerConfig(model=f"cmapkd-base-96:{tmp_path / 'w.safetensors'}"))


def test_a_misspelt_architecture_is_told_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'ViT-B-16'"):
        load_tower(TowerConfig(model="ViT-B-166"))


def test_a_hugging_face_clip_folder_gives_the_same_embeddings(tmp_path):
    transformers = pytest.importorskip("transformers")
    text = transformers.CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    ).eval()
    model.save_pretrained(tmp_path)
    tower = load_tower(TowerConfig(model=f"local-dir:{tmp_path}"), words=8)
    x = toy.inputs(tower, 2)
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(pixel_values=tower.normalise(x.images)).pooler_output)
        mask = torch.arange(77)[None] <= (x.ids == 49407).int().argmax(1)[:, None]
        words = model.text_projection(model.text_model(input_ids=x.ids, attention_mask=mask.long()).pooler_output)
        torch.testing.assert_close(
            tower.eval().image.levels(tower.normalise(x.images)).final, image, atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(tower.text.levels(x.ids, x.words).final, words, atol=1e-5, rtol=1e-4)


def test_a_tower_of_two_separate_parts_has_the_same_levels_as_a_joint_one(tmp_path):
    """open_clip's CustomTextCLIP, which every model with a timm trunk of its own family uses (MobileCLIP, SigLIP)."""
    words = toy.tokenizer(tmp_path)
    joint = toy.config(tok.vocabulary(tmp_path))
    apart = {**joint, "custom_text": True}
    models = [adapt(build(cfg), words, 32, toy.MEAN, toy.STD, cfg, "toy", words=8).eval() for cfg in (joint, apart)]
    whole = models[0].native.state_dict()
    own = models[1].native.state_dict()
    models[1].native.load_state_dict({key: whole[key.removeprefix("text.")] for key in own})
    x = toy.inputs(models[0], 3)
    for a, b in zip(models[0](x).text.levels, models[1](x).text.levels, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("open_clip_config.json", b'{"model_cfg": {', "not readable as JSON"),
        ("open_clip_config.json", b'{"model_cfg": {"embed_dim": 8}}', "has no model_cfg of a CLIP"),
        ("open_clip_model.safetensors", None, "not a readable safetensors file"),
        ("tokenizer.json", b"{}", "cannot be read"),
    ],
)
def test_a_model_folder_with_a_broken_file_is_refused_naming_it(tmp_path, name, content, words):
    import world

    folder = world.teacher_folder(tmp_path / "m")
    path = folder / name
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(UsageError, match=words) as caught:
        load_tower(TowerConfig(model=f"local-dir:{folder}"))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_folder_where_a_weight_file_is_expected_is_said(tmp_path):
    with pytest.raises(UsageError, match="is a folder; give the file in it"):
        identity(TowerConfig(model=f"ViT-B-32:{tmp_path}"))


def test_a_model_that_does_not_ship_is_told_those_that_do():
    for ask in (identity, load_tower):
        with pytest.raises(UsageError, match="there are: shipped:scenes-teacher"):
            ask(TowerConfig(model="shipped:nothing"))


def test_convolutions_are_laid_out_channels_last_with_the_same_features_and_a_transformer_is_left():
    tower = load_tower(TowerConfig(model="cmapkd-rn-small-64")).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        before = tower.image.levels(tower.normalise(pixels)).final
        kernels = [p for p in tower.channels_last().image.native.parameters() if p.ndim == 4 and p.shape[2] > 1]
        torch.testing.assert_close(tower.image.levels(tower.normalise(pixels)).final, before, rtol=1e-4, atol=1e-5)
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    plain = load_tower(TowerConfig(model="cmapkd-small-64")).channels_last()
    assert all(p.is_contiguous() for p in plain.native.parameters())


def test_a_copy_of_a_model_refers_to_its_own_weights_alone(tmp_path):
    tower = toy.tower(tmp_path)
    twin = copy.deepcopy(tower, {id(tower.tokenizer): tower.tokenizer})
    assert twin.tokenizer is tower.tokenizer and list(twin.state_dict()) == list(tower.state_dict())
    x = toy.inputs(tower, 2)
    before = tower.final(x)
    with torch.no_grad():
        for value in twin.parameters():
            value.add_(0.1)
    assert torch.equal(tower.final(x).image, before.image) and torch.equal(tower.final(x).text, before.text)
    assert not torch.equal(twin.final(x).image, before.image) and not torch.equal(twin.final(x).text, before.text)
    assert twin.similarity.scale > tower.similarity.scale
    assert twin.image.native is twin.native.visual and twin.text.native is twin.native


def test_the_weights_belong_to_the_native_model_and_are_registered_once(tmp_path):
    tower = toy.tower(tmp_path)
    assert list(tower.state_dict()) == [f"clip.{name}" for name in tower.native.state_dict()]
    assert [id(p) for p in tower.parameters()] == [id(p) for p in tower.native.parameters()]


def test_the_scale_stays_between_1_and_100_and_only_a_sigmoid_model_has_a_bias(tmp_path):
    tower = toy.tower(tmp_path)
    scale = tower.native.logit_scale
    assert tower.similarity.bias is None
    for logit, clamped in ((-1.0, 0.0), (3.0, 3.0), (9.0, math.log(100))):
        scale.data.fill_(logit)
        assert tower.similarity.scale.item() <= 100 + 1e-4
        tower.similarity.clamp_()
        assert scale.item() == pytest.approx(clamped) and tower.similarity.scale.item() == pytest.approx(
            math.exp(clamped)
        )
    sigmoid = Similarity(build({**tower.package.config, "init_logit_bias": -10.0}))
    assert sigmoid.bias is not None and sigmoid.bias.item() == -10
