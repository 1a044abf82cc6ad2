"""Pseudo-classes of data without classes: of all images where they are few, else fitted on some and given to all."""

from __future__ import annotations

import torch

import toy
from cmapkd.teacher import class_texts
from cmapkd.teacher.live import LiveTeacher
from pictures import samples


def test_a_class_fitted_on_some_images_is_given_to_all(tmp_path, monkeypatch, capsys):
    data, tower = samples(tmp_path, 40, captions=2), toy.tower(tmp_path, seed=1, width=48, embedding=24)
    teacher = LiveTeacher(tower, toy.targets(tower, rank=32))
    monkeypatch.setattr(class_texts, "PSEUDO_CLASSES", 4)
    whole = class_texts.open_class_texts(data, tower, teacher)
    monkeypatch.setattr(class_texts, "FITTED", 10)
    monkeypatch.setattr(class_texts, "PART", 7)
    found = class_texts.open_class_texts(data, tower, teacher)
    assert "fitted on 10 of 40 images" in capsys.readouterr().err and len(found.labels) == 40 and found.pseudo
    rows = tower.encode_texts([own[0] for own in data.captions])
    torch.testing.assert_close(
        (rows @ found.embeddings.T).gather(1, found.labels[:, None])[:, 0], (rows @ found.embeddings.T).amax(1)
    )
    assert len(whole.labels) == 40 and len(found.embeddings) == len(whole.embeddings) == 4
