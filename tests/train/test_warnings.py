"""What a run says before and while it is wasted: a teacher of noise, shared captions, a standing loss."""

import math

import pytest
import torch

import world
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import UsageError
from cmapkd.core.log import MetricsLog
from cmapkd.data.duplicates import shared_captions
from cmapkd.towers.named import warn_of_random
from cmapkd.train.records.recorder import Recorder
from cmapkd.train.runs.distill import distill
from cmapkd.train.setup.assemble import assemble
from pictures import coco


def test_a_teacher_without_a_checkpoint_is_said(root, capsys):
    warn_of_random(TowerConfig(model="ViT-L-14"), "teacher.model")
    assert "teacher.model ViT-L-14 has RANDOM WEIGHTS" in capsys.readouterr().err
    for fine in ("shipped:scenes-teacher", f"local-dir:{root / 'teacher'}", "ViT-L-14:some.pt"):
        warn_of_random(TowerConfig(model=fine), "teacher.model")
    with pytest.raises(UsageError, match="did you mean 'ViT-L-14'"):
        warn_of_random(TowerConfig(model="ViT-L-144"), "teacher.model")
    assert not capsys.readouterr().err


def test_captions_that_stand_at_several_images_are_counted_before_training(root, tmp_path, capsys):
    names = {f"{k}.png": ["the same one", "the same one", f"caption {k}"] for k in range(8)}
    path = coco(tmp_path, names | {"8.png": ["alone", "alone"]})
    distill(world.config(root, run=str(tmp_path / "r"), method="scratch", teacher=None, data__train=str(path),
                         data__val=None, train__steps=1))  # fmt: skip
    assert "16 of 26 captions stand at other images too" in capsys.readouterr().err


def test_repeats_at_one_image_are_not_shared(tmp_path):
    from cmapkd.data.readers import open_samples
    from pictures import config

    path = coco(tmp_path, {"a.png": ["one", "one"], "b.png": ["two"]})
    assert shared_captions(open_samples(str(path), config(path), None)) == 0


@pytest.mark.parametrize(
    ("loss", "step", "said"), [(math.log(32), 300, True), (math.log(32), 40, False), (2.9, 300, False)]
)
def test_a_contrastive_loss_at_what_guessing_gives_is_said_once_after_the_warm_up(
    root, tmp_path, loss, step, said, capsys
):
    config = world.config(root, method="scratch", train__steps=1000, train__batch=32, eval={})
    recorder = Recorder(assemble(config, tmp_path), MetricsLog(tmp_path / "metrics.jsonl"))
    capsys.readouterr()
    for _ in range(2):
        recorder._pending += [(now - 1, 0, {"loss/align": torch.tensor(loss)}, {}) for now in (step, step + 1)]
        recorder.flush()
    assert capsys.readouterr().err.count("L_align is still ln(32)") == said


@pytest.mark.parametrize(("loss", "said"), [(4.45, True), (math.log(32), False)])
def test_guessing_of_a_sigmoid_student_has_a_value_of_its_own(root, tmp_path, loss, said, capsys):
    student = world.teacher_folder(tmp_path / "student", width=32, init_logit_bias=-10.0)
    config = world.config(
        root, method="scratch", student__model=str(student), train__steps=1000, train__batch=32, eval={}
    )
    recorder = Recorder(assemble(config, tmp_path), MetricsLog(tmp_path / "metrics.jsonl"))
    capsys.readouterr()
    recorder._pending += [(300, 0, {"loss/align": torch.tensor(loss)}, {})]
    recorder.flush()
    assert capsys.readouterr().err.count("L_align is still 4.45 or more") == said
