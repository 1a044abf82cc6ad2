"""Inheritance across libraries and kinds of blocks: the same shape gives the teacher back, a smaller one starts near it, all else is refused."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from timm.models import vision_transformer

import toy
from cmapkd.core.types import Pair
from cmapkd.towers.adapt import adapt
from cmapkd.towers.inherit.start import inherit
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.tokens import tokenizer as tok
from cmapkd.train.setup.start_student import inherited_weights
from families.open_clip import BERT, BOTH_WAYS, ROBERTA, SIGLIP_TEXT, TEXT, VIT, trunk
from families.trunks import EVA02, registered

CONTEXT, NUMBER = 16, itertools.count()
CLASS = {"vision_cfg": VIT}
PLAIN = {"vision_cfg": VIT | {"no_ln_pre": True}}
CONV = {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 64}}
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}


def timm(pool, proj="linear", **sizes):
    """An image part whose trunk is a ViT of timm."""
    name = f"toy_inherit_{next(NUMBER)}"
    registered(name, vision_transformer.VisionTransformer, **TIMM | {"global_pool": pool} | sizes)
    return {"vision_cfg": trunk(name, 32, pool, proj)}


def encoder(pooler, proj="linear", **config):
    """A text part that is a Hugging Face encoder."""
    return {"hf_pooler_type": pooler, "hf_proj_type": proj, "encoder": {**BERT, **config}}


def tower(root, seed, vision, text=TEXT, embedding=24):
    """A toy tower whose weights are large enough that its blocks matter."""
    words = tok.train(toy.CAPTIONS, 128, CONTEXT, root / "words")
    text = {"context_length": CONTEXT, "vocab_size": tok.vocabulary(root / "words")} | text
    if config := text.pop("encoder", None):
        place = root / f"encoder-{seed}"
        place.mkdir(exist_ok=True)
        ids = {"bos_token_id": words.start, "eos_token_id": words.end, "pad_token_id": words.pad}
        (place / "config.json").write_text(json.dumps({"vocab_size": text["vocab_size"], **ids, **config}))
        text["hf_model_name"] = str(place)
    text["context_length"] = words.context = min(text["context_length"], CONTEXT)
    cfg = {"embed_dim": embedding, **vision, "text_cfg": text, "custom_text": True}
    torch.manual_seed(seed)
    clip = build(cfg)
    for name, value in clip.named_parameters():
        if value.ndim == 2 and any(part in name for part in ("block", "layer", "pool")):
            value.data.normal_(0, 0.7 * value.shape[1] ** -0.5)
        elif "embeddings" in name and value.ndim == 2:
            value.data.normal_(0, 1)
        elif value.ndim == 1 and any(part in name for part in ("ln_", "norm", "Norm", "gamma")):
            value.data.add_(0.3 * torch.randn_like(value))
    return adapt(clip, words, 32, toy.MEAN, toy.STD, cfg, "toy", words=8).eval()


def inputs(model, seed=5, n=96):
    torch.manual_seed(seed)
    smooth = F.interpolate(torch.rand(n, 3, 12, 12), model.size, mode="bilinear")
    ids, words = model.tokenizer([toy.CAPTIONS[k % len(toy.CAPTIONS)] for k in range(n)])
    return toy.Inputs((smooth * 255).to(torch.uint8), ids, words)


@torch.no_grad()
def agreement(student, teacher):
    """Cosines of the student's embeddings with the teacher's, both without the teacher's mean, (image, text), on other images."""
    pairs = student.final(inputs(student, 6)).zip(teacher.final(inputs(teacher, 6)))
    return tuple(float(F.cosine_similarity(a - b.mean(0), b - b.mean(0)).mean()) for a, b in (pairs.image, pairs.text))


SIGLIP = timm("map", "none", class_token=False)
KINDS = {
    "ViT of timm, BERT with its pooler": (timm("token", init_values=0.5), encoder("cls_pooler"), 24),
    "registers and a mean, RoBERTa with a head of two layers": (
        timm("avg", class_token=False, reg_tokens=2, no_embed_class=True),
        encoder("mean_pooler", "mlp", **ROBERTA),
        24,
    ),
    "SigLIP": (SIGLIP, TEXT | SIGLIP_TEXT, 32),
    "CLIPA": ({"vision_cfg": VIT | {"no_ln_pre": True, "final_ln_after_pool": True, "pool_type": "avg"}}, TEXT | BOTH_WAYS, 24),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_its_teachers_shape_gives_the_teachers_embeddings(tmp_path, kind):
    vision, text, embedding = KINDS[kind]
    teacher, student = (tower(tmp_path, seed, vision, dict(text), embedding) for seed in (0, 1))
    assert min(agreement(student, teacher)) < 0.5
    assert inherit(student, teacher, inputs(student), inputs(teacher)) == Pair("", "")
    assert min(agreement(student, teacher)) > 0.97


SMALLER = {
    "narrower and shallower": (
        KINDS["ViT of timm, BERT with its pooler"], timm("token", embed_dim=24, depth=3),
        encoder("cls_pooler", hidden_size=24, num_hidden_layers=2), 24,
    ),
    "a class token and no registers": (
        KINDS["registers and a mean, RoBERTa with a head of two layers"], PLAIN,
        encoder("mean_pooler", **ROBERTA | {"hidden_size": 16}), 24,
    ),
    "a narrower SigLIP with larger patches": (
        KINDS["SigLIP"], timm("map", "none", class_token=False, embed_dim=24, patch_size=16),
        TEXT | SIGLIP_TEXT | {"width": 24}, 24,
    ),
    "a class token from attention pooling": (KINDS["SigLIP"], PLAIN, TEXT | SIGLIP_TEXT | {"layers": 3}, 16),
}  # fmt: skip


@pytest.mark.parametrize("change", SMALLER)
def test_a_student_of_another_kind_or_size_starts_near_its_teacher(tmp_path, change):
    (vision, text, embedding), small, words, width = SMALLER[change]
    teacher = tower(tmp_path, 0, vision, dict(text), embedding)
    student = tower(tmp_path, 1, small, dict(words), width)
    before = similarity_agreement(student, teacher)
    assert inherit(student, teacher, inputs(student), inputs(teacher)) == Pair("", "")
    after = similarity_agreement(student, teacher)
    assert after[0] > max(0.4, before[0] + 0.2) and after[1] > max(0.8, before[1] + 0.2)


@torch.no_grad()
def similarity_agreement(student, teacher):
    """Correlations of the cosines within each modality, (image, text), which no rotation of embeddings changes."""
    found = []
    pairs = student.final(inputs(student, 6)).zip(teacher.final(inputs(teacher, 6)))
    for pair in (pairs.image, pairs.text):
        mine, theirs = (F.normalize(each - each.mean(0), dim=-1) for each in pair)
        found.append(
            float(torch.corrcoef(torch.stack([(mine @ mine.T).flatten(), (theirs @ theirs.T).flatten()]))[0, 1])
        )
    return found


def test_hidden_states_of_a_bert_are_those_of_its_teacher(tmp_path):
    teacher, student = (tower(tmp_path, seed, CLASS, encoder("mean_pooler")) for seed in (0, 1))
    inherit(student, teacher, inputs(student), inputs(teacher))
    ids = inputs(teacher, 6).ids
    real = ids != teacher.tokenizer.pad
    with torch.no_grad():
        mine, theirs = (
            model.text.native.transformer(
                input_ids=ids, attention_mask=real.long(), output_hidden_states=True
            ).hidden_states
            for model in (student, teacher)
        )
    for got, want in zip(mine, theirs, strict=True):
        assert F.cosine_similarity(got[real], want[real]).min() > 0.99


REFUSED = {
    "norms behind": ((CLASS, TEXT), (CLASS, encoder("mean_pooler")), "", "attention is causal"),
    "both ways": ((CLASS, TEXT), (CLASS, TEXT | BOTH_WAYS), "", "its attention is causal and its teacher's is whole"),
    "context": ((CLASS, TEXT | BOTH_WAYS | {"context_length": 12}), (CLASS, TEXT | BOTH_WAYS), "", "its context is 12"),
    "pooling": ((SIGLIP, TEXT), (PLAIN, TEXT), "it pools by attention", ""),
    "pooler": ((CLASS, encoder("cls_pooler")), (CLASS, encoder("mean_pooler")), "", "hidden layers that the teacher's has not"),
    "no bias": ((timm("token", qkv_bias=False), TEXT), (timm("token"), TEXT), "have no bias", ""),
    "more inside": ((timm("token", qk_norm=True), TEXT), (timm("token"), TEXT),
                    "do more than attention", ""),
    "rotary": (({"vision_cfg": trunk(EVA02, pool="token")}, TEXT), (CLASS, TEXT), "(Eva) is no plain ViT", ""),
    "convolutions": ((CLASS, TEXT), (CONV, TEXT), "the teacher's image tower (ModifiedResNet)", ""),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_towers_that_do_not_fit_are_refused_with_the_reason_and_stay(tmp_path, why):
    mine, theirs, *reasons = REFUSED[why]
    size = 32 if mine[0] is SIGLIP else 24
    student, teacher = tower(tmp_path, 1, mine[0], dict(mine[1]), size), tower(tmp_path, 0, theirs[0], dict(theirs[1]))
    towers = Pair(student.image, student.text)
    before = {name: value.clone() for name, value in student.native.state_dict().items()}
    found = inherit(student, teacher, inputs(student), inputs(teacher))
    assert reasons[0] in found.image and reasons[1] in found.text
    assert bool(found.image) == bool(reasons[0]) and bool(found.text) == bool(reasons[1])
    stays = towers.image if found.image else towers.text
    for name, value in student.native.state_dict().items():
        if any(value.data_ptr() == own.data_ptr() for own in stays.native.state_dict().values()):
            assert torch.equal(value, before[name]), name


def test_only_the_tensors_of_towers_that_inherited_are_kept(tmp_path):
    student = tower(tmp_path, 1, timm("token"), encoder("mean_pooler"))
    image, text = inherited_weights(student, Pair("", "no")), inherited_weights(student, Pair("no", ""))
    assert image and all(name.startswith("visual.") for name in image)
    assert text and not any(name.startswith("visual.") for name in text)
    assert set(image) | set(text) == set(student.native.state_dict())
