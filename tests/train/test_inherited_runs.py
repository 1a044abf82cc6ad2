"""Runs whose student begins from the teacher's weights: kept in the cache, the same however they were got, refused clearly."""

import json

import pytest
import torch

import toy
import world
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.core.types import LEVELS, Needs
from cmapkd.train.batches import inputs_of
from cmapkd.train.runs.distill import distill
from cmapkd.train.schedule import stage_at
from cmapkd.train.setup import start_student as inherited
from cmapkd.train.setup.assemble import assemble
from cmapkd.train.setup.prepare import build_cache
from cmapkd.train.step import forward


@pytest.fixture(scope="module")
def towers(root):
    """A small architecture with random weights, for a student that fits the teacher of the world."""
    shape = toy.config(128, width=32, size=32, context=24)
    path = root / "small.json"
    path.write_text(json.dumps(shape))
    return path


@pytest.fixture
def config(root, towers, monkeypatch):
    monkeypatch.setattr("cmapkd.towers.named.SHIPPED", towers.parent)

    def make(**over):
        student = {"model": "small", "tokenizer": "teacher", "inherit": True}
        return world.config(root, **{"student": student, "eval__every": None, **over})

    return make


def weights(run):
    return {name: value.clone() for name, value in run.state.learner.student.native.state_dict().items()}


def test_an_inherited_start_is_kept_and_read_without_the_teacher(root, config, monkeypatch):
    fresh = weights(assemble(config(), root / "a"))
    asked = []
    monkeypatch.setattr(inherited, "load_tower", lambda *args, **kwargs: asked.append(args))
    kept = weights(assemble(config(), root / "a"))
    other = weights(assemble(config(seed=1), root / "b"))
    assert not asked
    assert all(torch.equal(kept[name], value) and torch.equal(other[name], value) for name, value in fresh.items())


def test_the_adapters_are_the_same_whether_the_start_was_fitted_or_read(root, config):
    place = {"cache__path": str(root / "cache"), "seed": 3}
    for file in (root / "cache").glob("inherited-*"):
        file.unlink()
    fitted, after = assemble(config(**place), root / "a").state.learner.state_dict(), torch.get_rng_state()
    read = assemble(config(**place), root / "a").state.learner.state_dict()
    assert all(torch.equal(value, read[name]) for name, value in fitted.items())
    assert torch.equal(after, torch.get_rng_state()), "what is drawn next is the same, too"


def test_cmapkd_cache_makes_the_start(root, config, capsys):
    for file in (root / "cache").glob("inherited-*"):
        file.unlink()
    build_cache(config())
    assert "inheriting the student's weights" in capsys.readouterr().err
    assert len(list((root / "cache").glob("inherited-*.safetensors"))) == 1


def test_a_student_that_cannot_inherit_is_told_before_the_teacher_has_read_everything(root, tmp_path):
    own = {"model": str(root / "student-init"), "inherit": True}
    with pytest.raises(UsageError, match="weights of its own"):
        build_cache(world.config(root, student=own, cache__path=str(tmp_path / "cache")))
    assert not (tmp_path / "cache" / "image").exists()


def test_every_run_tells_which_tower_does_not_inherit(root, towers, config, capsys):
    shape = json.loads(towers.read_text())
    size = shape["vision_cfg"]["image_size"]
    shape["vision_cfg"] = {"image_size": size, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    (towers.parent / "convolutional.json").write_text(json.dumps(shape))
    student = {"model": "convolutional", "tokenizer": "teacher", "inherit": True}
    others = set((root / "cache").glob("inherited-*"))
    for name in "ab":
        assemble(config(student=student), root / name)
        said = capsys.readouterr().err
        assert "the image tower begins at random: its image tower (ModifiedResNet) is no plain ViT" in said
        assert ("inheriting the student's weights" in said) == (name == "a")
    for file in set((root / "cache").glob("inherited-*")) - others:
        file.unlink()


def test_a_live_teacher_is_inherited_from_as_well(root, config):
    cached = weights(assemble(config(), root / "a"))
    live = weights(assemble(config(cache__path=None), root / "a"))
    assert all(torch.allclose(live[name], value, atol=1e-5) for name, value in cached.items())


def test_a_run_from_an_inherited_start_resumes_to_the_same_weights(root, config):
    def final(name):
        return (root / name / "student" / "open_clip_model.safetensors").read_bytes()

    whole = distill(config(run=str(root / "whole")))
    assert "begun from the teacher's weights" in (whole / "student" / "README.md").read_text()
    cut = config(run=str(root / "cut"))
    world.cut_off(cut, 4)
    distill(cut, resume=True)
    assert final("whole") == final("cut")


def test_a_changed_file_is_refused(root, config):
    assemble(config(), root / "a")
    (file,) = (root / "cache").glob("inherited-*.safetensors")
    whole = file.read_bytes()
    for broken in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:100]):
        file.write_bytes(broken)
        with pytest.raises(IntegrityError, match="it is made again"):
            assemble(config(), root / "a")
    file.write_bytes(whole)


def test_scratch_begins_at_random_and_inherited_never_does(root, config):
    start = weights(assemble(config(), root / "a"))
    scratch = weights(assemble(config(method="scratch"), root / "b"))
    student = {"model": "small", "tokenizer": "teacher"}
    inherits = weights(assemble(config(method="inherited", student=student), root / "c"))
    assert all(torch.equal(value, start[name]) for name, value in inherits.items())
    assert not torch.equal(scratch["visual.proj"], start["visual.proj"])


def test_a_student_with_weights_and_a_run_without_teacher_are_refused(root, config):
    own = {"model": str(root / "student-init"), "inherit": True}
    with pytest.raises(UsageError, match="weights of its own"):
        assemble(world.config(root, student=own), root / "a")
    with pytest.raises(UsageError, match=r"needs teacher\.model"):
        alone = {
            "student": {"model": "small", "tokenizer": str(root / "teacher"), "inherit": True},
            "teacher": None,
            "cache__path": None,
        }
        assemble(config(method="inherited", **alone), root / "a")


def errors_of_the_first_batch(config, folder):
    run = assemble(config, folder)
    given = inputs_of(run, run.loader.batch(0), stage_at(run.stages, 0.0))
    outputs = forward(run.state.learner, given.batch.student, given.teacher, given.needs, None, torch.float32)
    return {name: float(error.mean()) for name, error in outputs.errors.items()}, outputs


def test_projectors_of_an_inherited_student_say_most_of_what_the_teacher_says(root, config):
    fitted, outputs = errors_of_the_first_batch(config(), root / "a")
    zero, _ = errors_of_the_first_batch(config(student={"model": "small", "tokenizer": "teacher"}), root / "a")
    assert all(zero[name] > 0.5 for name in LEVELS), zero
    assert all(fitted[name] < 0.5 * zero[name] for name in LEVELS), fitted
    assert float((outputs.bridge.image * teach_bridge(root, config).image).sum(-1).mean()) > 0.7


def teach_bridge(root, config):
    run = assemble(config(), root / "a")
    return inputs_of(run, run.loader.batch(0), stage_at(run.stages, 0.0)).teacher.bridge


@pytest.mark.parametrize("kept", [{"cache__tokens": 4}, {"cache__grid": 2}], ids=str)
def test_projectors_are_fitted_to_what_is_kept_of_a_map(root, config, kept):
    fitted, _ = errors_of_the_first_batch(config(cache__path=None, **kept), root / "a")
    assert all(error < 0.6 for error in fitted.values()), fitted


def test_a_projector_to_the_teachers_width_begins_at_its_embeddings(root, towers, config):
    shape = toy.config(128, width=32, size=32, context=24, embedding=12)
    (towers.parent / "thin.json").write_text(json.dumps(shape))
    run = assemble(config(student={"model": "thin", "tokenizer": "teacher", "inherit": True}), root / "a")
    given = inputs_of(run, run.loader.batch(0), stage_at(run.stages, 0.0))
    pairs = run.state.learner(given.batch.student, Needs()).projected.zip(given.teacher.final)
    for mine, theirs in (pairs.image, pairs.text):
        assert float(torch.nn.functional.cosine_similarity(mine, theirs).mean()) > 0.9
