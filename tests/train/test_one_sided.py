"""Runs of models with one side: image-only teachers, students that keep a tower of the teacher, and frozen sides."""

import pytest
import torch
import torch.nn.functional as F

import toy
import world
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.store.verify import verify_cache
from cmapkd.towers.load import load_tower
from cmapkd.train.batches import inputs_of
from cmapkd.train.runs.distill import distill
from cmapkd.train.runs.folder import prepare_folder
from cmapkd.train.schedule import stage_at
from cmapkd.train.setup.assemble import assemble
from cmapkd.train.setup.prepare import build_cache
from families.one_sided import FAMILIES

METHODS = ("cmapkd", "clip_kd", "fitnet")
ALONE = {"student__model": "timm:test_vit"}  # under a teacher of images alone
SMALL = {"data__train": "scenes:24:train", "data__val": "scenes:8:val", "train__steps": 2, "train__batch": 6,
         "cache__calibration_samples": 20, "eval__every": None}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a teacher and a student of both towers."""
    root = tmp_path_factory.mktemp("one-sided")
    world.teacher_folder(root / "teacher")
    world.teacher_folder(root / "student-init", seed=1, width=32)
    return root


def config(place, run, **over):
    return world.config(place, **{"run": str(run), **SMALL, **over})


def first_losses(run) -> set[str]:
    row = next(row for row in world.rows(run) if "total" in row or "loss/align" in row)
    return {name.removeprefix("loss/") for name in row if name.startswith("loss/")}


@pytest.fixture(scope="module")
def images(place):
    """The finished cache of an image-only teacher: (its name, the cache's folder)."""
    name = FAMILIES["test_convnext"](place / "models")
    cache = place / "cache-images"
    build_cache(config(place, place / "unused", teacher__model=name, cache__path=str(cache)))
    return name, cache


def test_a_cache_of_an_image_only_teacher_has_no_texts_and_verifies(place, images):
    name, cache = images
    assert not (cache / "text").exists() and "image and calibration verified" in verify_cache(cache)
    build_cache(config(place, place / "unused", teacher__model=name, cache__path=str(cache)))  # canaries


@pytest.mark.parametrize("method", METHODS)
def test_an_image_only_teacher_teaches_levels_and_halves_of_images(place, images, tmp_path, method, capfd):
    name, cache = images
    run = distill(config(place, tmp_path / "run", teacher__model=name, cache__path=str(cache), method=method))
    expected = {
        "cmapkd": {"align", "fd", "icl", "intra_v"},
        "clip_kd": {"align", "fd", "icl"},
        "fitnet": {"align", "hint"},
    }
    assert first_losses(run) == expected[method]
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("off: ")]
    off = {"cmapkd": ["off: logits, intra_l, pyramid_align"], "clip_kd": ["off: logits"], "fitnet": []}
    assert [line.split(" (")[0] for line in said] == off[method]
    assert all("has no text tower" in line for line in said)


@pytest.mark.parametrize("family", sorted(name for name in FAMILIES if name.startswith("test_")))
def test_the_embedding_of_a_timm_teacher_is_its_own_feature_before_the_classifier(place, family):
    import timm

    name = FAMILIES[family](place / "models")
    tower = load_tower(TowerConfig(model=name))
    plain = timm.create_model(name.split(":")[1]).eval()
    plain.load_state_dict(load_state(name))
    pixels = torch.randint(0, 256, (2, 3, tower.size, tower.size), generator=torch.Generator().manual_seed(0))
    tower.eval()
    x = tower.normalise(pixels)
    with torch.no_grad():
        wanted = plain.forward_head(plain.forward_features(x), pre_logits=True)
        features = tower.image.levels(x)
    assert torch.allclose(tower.raw_images(pixels.to(torch.uint8)), wanted, atol=1e-5)
    assert torch.allclose(features.final, wanted, atol=1e-5) and len(features.levels) == 4
    with pytest.raises(UsageError, match="has no text tower"):
        tower.encode_texts(["a star"])


def load_state(name: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {
        key: value.float() if value.is_floating_point() else value
        for key, value in load_file(name.split(":")[2]).items()
    }


@pytest.mark.parametrize(("method", "live"), [("cmapkd", False), ("clip_kd", True), ("fitnet", False)])
def test_an_image_student_keeps_the_teachers_text_tower_to_the_bit(place, cached, tmp_path, method, live):
    open_clip = pytest.importorskip("open_clip")
    over = {"cache__path": None if live else str(cached), "student__model": "timm:test_resnet", "method": method}
    run = distill(config(place, tmp_path / "run", **over, train__ema=0.5))
    mine, theirs = (
        open_clip.create_model(f"local-dir:{folder}").eval() for folder in (run / "student", place / "teacher")
    )
    ids = open_clip.get_tokenizer(f"local-dir:{run / 'student'}")(toy.CAPTIONS[:4])
    assert torch.equal(ids, open_clip.get_tokenizer(f"local-dir:{place / 'teacher'}")(toy.CAPTIONS[:4]))
    assert torch.equal(mine.encode_text(ids), theirs.encode_text(ids))
    assert torch.equal(mine.logit_scale, theirs.logit_scale) and type(mine.visual).__name__ == "TimmModel"
    assert "intra_l" not in first_losses(run)


@pytest.fixture(scope="module")
def cached(place):
    """The cache of the teacher with both towers."""
    build_cache(config(place, place / "unused", cache__path=str(place / "cache")))
    return place / "cache"


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    "student",
    [
        {"student__model": "timm:test_resnet"},
        {"student__model": "cmapkd-small-64", "student__image": "teacher", "student__tokenizer": "teacher"},
    ],
)
def test_a_step_reads_the_kept_side_from_the_teacher_and_never_computes_it(place, cached, tmp_path, live, student):
    one = config(place, tmp_path / "run", method="clip_kd", cache__path=None if live else str(cached), **student)
    run = assemble(one, prepare_folder(one, False))
    model, kept = run.state.learner.student, run.state.learner.student.kept
    given = inputs_of(run, run.loader.batch(0), stage_at(run.stages, 0.0))
    tower = getattr(model, kept)
    real, tower.encode = tower.encode, lambda *_: pytest.fail("the kept side was computed")
    run.state.learner.train()
    read = toy.losses(run.objective, run.state.learner, given)
    tower.encode, model.kept = (real if live else lambda x: F.normalize(real(x), dim=-1).half().float()), None
    computed = toy.losses(run.objective, run.state.learner, given)
    for name, loss in read.items():
        assert float(loss.detach()) == pytest.approx(float(computed[name].detach()), abs=1e-5), name
    sum(read.values()).backward()
    learning = {name for name, p in model.native.named_parameters() if p.grad is not None}
    assert learning and all(name.startswith("visual.") == (kept == "text") for name in learning)


def test_a_text_student_keeps_the_teachers_image_tower_to_the_bit(place, cached, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    over = {"student__model": "cmapkd-small-64", "student__image": "teacher", "student__tokenizer": "teacher"}
    run = distill(config(place, tmp_path / "run", cache__path=str(cached), method="cmapkd", **over))
    assert first_losses(run) == {"align", "logits", "fd", "icl", "intra_l"}
    mine, theirs = (
        open_clip.create_model(f"local-dir:{folder}").eval() for folder in (run / "student", place / "teacher")
    )
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mine.encode_image(x), theirs.encode_image(x))
    assert mine.encode_text(open_clip.get_tokenizer(f"local-dir:{run / 'student'}")(["a star"])).shape == (1, 24)


def test_a_run_that_keeps_the_teachers_texts_resumes_bit_by_bit(place, cached, tmp_path):
    over = {"cache__path": str(cached), "student__model": "timm:test_convnext", "method": "clip_kd", "train__steps": 3}
    over |= {"train__checkpoint_every": 1}
    whole = distill(config(place, tmp_path / "whole", **over))
    cut = config(place, tmp_path / "cut", **over)
    world.cut_off(cut, 1)
    distill(cut, resume=True)
    one, two = world.final_tensors(whole), world.final_tensors(tmp_path / "cut")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("side", ["image", "text"])
def test_of_a_frozen_side_only_the_projection_learns(place, cached, tmp_path, side):
    run = distill(config(place, tmp_path / "run", cache__path=str(cached), student__frozen=[side], train__centre=False))
    before, after = (
        load_tower(TowerConfig(model=str(folder))).native.state_dict()
        for folder in (place / "student-init", run / "student")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    projection, other = {"image": ("visual.proj", "text_projection"), "text": ("text_projection", "visual.proj")}[side]
    mine = {name for name in moved if name.startswith("visual.") == (side == "image") and name != "logit_scale"}
    assert mine == {projection} and other in moved and "logit_scale" in moved
    off = {"image": "intra_v", "text": "intra_l"}
    assert off[side] not in first_losses(run) and off["text" if side == "image" else "image"] in first_losses(run)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (
            {"student__model": "timm:test_resnet", "teacher__model": "timm:test_vit", "student__text": "own"},
            "no text tower, and there is no tea",
        ),
        (
            {"teacher__model": "timm:test_vit", **ALONE, "method": "scratch"},
            "scratch' cannot teach here: align: .* no text",
        ),
        (
            {"teacher__model": "timm:test_vit", **ALONE, "method": "fitnet_staged"},
            "cannot teach here: .*align, logits: neither",
        ),
        (
            {"teacher__model": "timm:test_vit", **ALONE, "student__frozen": ["image"]},
            "student.frozen is .*image tower alone",
        ),
        (
            {"teacher__model": "timm:test_vit", **ALONE, "student__tokenizer": "train:99"},
            "student.tokenizer is 'train:99'",
        ),
        ({"student__model": "timm:test_resnet", "student__text": "own"}, "has no text tower"),
        ({"student__model": "timm:test_resnet", "student__tokenizer": "train:100"}, "tokenizer is 'train:100', but"),
        ({"student__model": "timm:test_resnett"}, "timm has no model of that name .did you mean 'test_resnet"),
        ({"student__image": "teacher"}, "random weights only; name the architecture"),
        ({"student__text": "teacher"}, "random weights only; name the architecture"),
        (
            {"teacher__model": "timm:test_vit", "method": "kd"},
            "method 'kd' cannot teach here: logits: .* no text tower",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused_in_one_line(place, tmp_path, over, message):
    with pytest.raises(UsageError, match=message) as caught:
        distill(config(place, tmp_path / "run", **{"cache__path": None, "method": "clip_kd", **over}))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_file_of_weights_of_another_image_model_is_refused(place):
    file = FAMILIES["test_convnext"](place / "models").split(":")[2]
    with pytest.raises(UsageError, match="not of model 'timm:test_resnet'"):
        load_tower(TowerConfig(model=f"timm:test_resnet:{file}"))
