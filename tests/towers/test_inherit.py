"""Inheritance: the same size gives the teacher back, a smaller one starts near it, and what cannot inherit is told."""

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock

import toy
from cmapkd.core.errors import UsageError
from cmapkd.towers.adapt import adapt
from cmapkd.towers.inherit.attention import inherit_heads
from cmapkd.towers.inherit.blocks import shared_basis, sources
from cmapkd.towers.inherit.maps import bare
from cmapkd.towers.inherit.parts import parts_of
from cmapkd.towers.inherit.start import inherit
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.tokens import tokenizer as tok


def tower(folder, seed, *, size=32, patch=8, context=16, **over):
    """A toy tower whose weights are large enough that its blocks matter."""
    words = toy.tokenizer(folder, context)
    cfg = toy.config(tok.vocabulary(folder), size=size, context=context, **{"width": 32, **over})
    cfg["vision_cfg"]["patch_size"] = patch
    torch.manual_seed(seed)
    clip = build(cfg)
    for name, value in clip.named_parameters():
        if "resblocks" in name and value.ndim == 2:
            value.data.mul_(2)
        elif "ln_" in name:
            value.data.add_(0.3 * torch.randn_like(value))
    clip.logit_scale.data.fill_(2.0 + seed)
    return adapt(clip, words, size, toy.MEAN, toy.STD, cfg, "toy", words=8)


def inputs(model, n=64, images=None):
    torch.manual_seed(5)
    smooth = F.interpolate(torch.rand(n, 3, 12, 12), 96, mode="bilinear") if images is None else images
    pixels = (F.interpolate(smooth, model.size, mode="area") * 255).to(torch.uint8)
    ids, words = model.tokenizer([toy.CAPTIONS[k % len(toy.CAPTIONS)] for k in range(n)])
    return toy.Inputs(pixels, ids, words)


def agreement(student, teacher):
    """Mean cosines of the students' embeddings with the teacher's, (image, text), on other images than were fitted on."""
    torch.manual_seed(6)
    other = F.interpolate(torch.rand(64, 3, 12, 12), 96, mode="bilinear")
    mine, theirs = inputs(student, images=other), inputs(teacher, images=other)
    with torch.no_grad():
        pairs = student.final(mine).zip(teacher.final(theirs))
    return tuple(float(F.cosine_similarity(*pair).mean()) for pair in (pairs.image, pairs.text))


def centred_agreement(student, teacher):
    """The same of embeddings without their mean, which random towers share."""
    with torch.no_grad():
        mine, theirs = student.final(inputs(student)), teacher.final(inputs(teacher))
    return tuple(
        float(F.cosine_similarity(a - a.mean(0), b - b.mean(0)).mean())
        for a, b in ((mine.image, theirs.image), (mine.text, theirs.text))
    )


@pytest.fixture
def teacher(tmp_path):
    return tower(tmp_path / "words", 0)


@pytest.mark.parametrize("shape", [{}, {"width": 64}], ids=str)
def test_a_student_that_is_no_smaller_gives_the_teachers_embeddings(tmp_path, teacher, shape):
    student = tower(tmp_path / "words", 1, **shape)
    assert inherit(student, teacher, inputs(student), inputs(teacher)).image == ""
    image, text = agreement(student, teacher)
    assert image > 0.99 and text > 0.99
    assert student.similarity.scale == teacher.similarity.scale


@pytest.mark.parametrize(
    "shape",
    [
        {"width": 16},
        {"layers": 3},
        {"layers": 6},
        {"size": 64},
        {"patch": 16},
        {"context": 8},
        {"size": 48, "patch": 16, "width": 48},
    ],
    ids=str,
)
def test_a_student_of_another_shape_starts_near_its_teacher(tmp_path, teacher, shape):
    student = tower(tmp_path / "words", 1, **shape)
    before = centred_agreement(student, teacher)
    inherit(student, teacher, inputs(student), inputs(teacher))
    after = centred_agreement(student, teacher)
    assert after[0] > max(0.3, before[0] + 0.2) and after[1] > max(0.6, before[1] + 0.2)


def test_cosines_between_the_modalities_survive_a_narrower_embedding(tmp_path, teacher):
    student = tower(tmp_path / "words", 1, embedding=12)
    inherit(student, teacher, inputs(student), inputs(teacher))
    with torch.no_grad():
        mine, theirs = student.final(inputs(student)), teacher.final(inputs(teacher))
    want, got = (
        (F.normalize(pair.image, dim=-1) @ F.normalize(pair.text, dim=-1).T).flatten() for pair in (theirs, mine)
    )
    assert torch.corrcoef(torch.stack([want, got]))[0, 1] > 0.9


def test_the_basis_makes_the_norm_of_the_small_stream_that_of_the_large_one():
    x = torch.randn(500, 3) @ torch.randn(3, 20)
    basis = shared_basis(bare(x).T @ bare(x), 8)
    small, large = bare(x @ basis), bare(x) @ basis
    assert (x @ basis).mean(-1).abs().max() < 1e-5
    assert torch.allclose(F.normalize(small, dim=-1), F.normalize(large, dim=-1), atol=1e-4)
    assert torch.allclose(bare(x) @ basis @ basis.T, bare(x), atol=1e-4), "three directions and their mean fit in seven"


def test_the_first_and_the_last_block_are_kept():
    assert sources(4, 6) == [1, 3, 4, 6]
    assert sources(12, 24)[0] == 1 and sources(12, 24)[-1] == 24
    assert sources(3, 3) == [1, 2, 3] and sources(1, 6) == [6]


def test_what_cannot_inherit_stays_as_it_was_and_is_told(tmp_path, teacher):
    student = tower(tmp_path / "words", 1)
    cfg = student.package.config | {
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    }
    torch.manual_seed(0)
    mixed = adapt(build(cfg), student.tokenizer, 32, toy.MEAN, toy.STD, cfg, "toy", words=8)
    kept = {name: value.clone() for name, value in mixed.image.native.state_dict().items()}
    refused = inherit(mixed, teacher, inputs(mixed), inputs(teacher))
    assert "no plain ViT" in refused.image and refused.text == ""
    assert all(torch.equal(value, kept[name]) for name, value in mixed.image.native.state_dict().items())
    assert agreement(mixed, teacher)[1] > 0.99


def test_another_tokenizer_is_refused_for_texts_and_nothing_at_all_is_an_error(tmp_path, teacher):
    words = tok.train([c.upper() + " extra words" for c in toy.CAPTIONS], 90, 16, tmp_path / "other")
    cfg = toy.config(tok.vocabulary(tmp_path / "other"))
    torch.manual_seed(0)
    student = adapt(build(cfg), words, 32, toy.MEAN, toy.STD, cfg, "toy", words=8)
    assert "student.tokenizer: teacher" in inherit(student, teacher, inputs(student), inputs(teacher)).text
    cfg["vision_cfg"] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    student = adapt(build(cfg), words, 32, toy.MEAN, toy.STD, cfg, "toy", words=8)
    with pytest.raises(UsageError, match="neither tower can"):
        inherit(student, teacher, inputs(student), inputs(teacher))


def test_a_wider_head_attends_as_the_teachers_does():
    torch.manual_seed(0)
    theirs, whole = ResidualAttentionBlock(32, 2), ResidualAttentionBlock(64, 2)
    mine = whole.attn
    theirs.attn.in_proj_bias.data.normal_()
    wanted = bare(torch.randn(400, 32))
    seen = wanted @ torch.randn(32, 64)
    with torch.no_grad():
        inherit_heads(*parts_of([whole, theirs]), seen, wanted)

    def logits(attention, x):
        query, key, _ = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        query, key = (part.unflatten(1, (2, -1)).transpose(0, 1) for part in (query, key))
        return query @ key.mT / attention.head_dim**0.5

    want, got = logits(theirs.attn, theirs.ln_1.weight * wanted), logits(mine, seen)
    order = [0, 1] if torch.dist(want, got) < torch.dist(want, got.flip(0)) else [1, 0]
    assert torch.dist(want, got[order]) < 0.05 * want.norm()
