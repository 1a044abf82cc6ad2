"""The built-in world on disk: rendered scenes with captions, questions and boxes, in the formats of COCO and VQA v2."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cmapkd.core import fsio
from cmapkd.core.order import keyed_hash
from cmapkd.data.scenes.captions import captions_of, relations_of
from cmapkd.data.scenes.pixels import box_of, paint
from cmapkd.data.scenes.questions import questions_of
from cmapkd.data.scenes.world import COLOURS, SHAPES, SIDE, Scene, Thing, draw_scene

SPLITS = {"train": 1, "val": 2, "test": 3}
LAYOUT = 2  # version of the set of files in a folder
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
INFO = "SYNTHETIC scenes rendered by cmapkd; not photographs"
README = """SYNTHETIC DATA. These images are rendered by cmapkd; they are not photographs, and their captions,
questions and boxes are generated too. Figures on them compare methods on this world only and say nothing
about photographs.
"""
ASK, SINGLE = 5, 99  # random streams independent of the one that draws the scenes


def world_seed(split: str) -> int:
    """The seed of the world of a split, or of a world given by number."""
    return keyed_hash(1, SPLITS[split] if split in SPLITS else 1000 + int(split)) % 2**31


def write_scenes(folder: Path, n: int, seed: int) -> None:
    """Write n scenes to `folder` atomically; the files depend on (n, seed) alone, and image i on (seed, i).

    images/, captions.json (COCO captions), instances.json (COCO boxes), vqa_questions.json and vqa_annotations.json
    (VQA v2), scenes.json (objects and their positions), classes.json and README.txt.
    """
    draft = folder.with_name(f"{folder.name}.tmp.{os.getpid()}")
    (draft / "images").mkdir(parents=True, exist_ok=True)
    images, captions, boxes, scenes = [], [], [], []
    questions: list[dict[str, object]] = []
    answers: list[dict[str, object]] = []
    for i in range(n):
        rng = np.random.default_rng(keyed_hash(seed, i))
        scene = draw_scene(rng)
        name = f"{seed}_{i:06d}.png"
        paint(scene, rng).save(draft / "images" / name, compress_level=1)
        images.append({"id": i, "file_name": name, "width": SIDE, "height": SIDE})
        captions += [
            {"id": 5 * i + k, "image_id": i, "caption": text} for k, text in enumerate(captions_of(scene, rng))
        ]
        boxes += [_instance(thing, i, k) for k, thing in enumerate(scene.things)]
        for k, asked in enumerate(questions_of(scene, np.random.default_rng(keyed_hash(seed, i, ASK)))):
            question, answer = _vqa(asked, i, 1000 * i + k)
            questions.append(question)
            answers.append(answer)
        scenes.append({"id": i, **asdict(scene), "relations": [list(r) for r in relations_of(scene)]})
    info = {"description": INFO, "seed": seed}
    head = {"info": info, "data_type": "scenes", "data_subtype": str(seed)}
    categories = [{"id": k + 1, "name": shape, "supercategory": "shape"} for k, shape in enumerate(SHAPES)]
    _dump(draft / "captions.json", {"info": info, "images": images, "annotations": captions})
    _dump(draft / "instances.json", {"info": info, "images": images, "annotations": boxes, "categories": categories})
    _dump(draft / "vqa_questions.json", {**head, "task_type": "Open-Ended", "questions": questions})
    _dump(draft / "vqa_annotations.json", {**head, "annotations": answers})
    _dump(draft / "scenes.json", scenes)
    _dump(draft / "classes.json", list(CLASSES))
    _finish(draft, folder)


def write_single_objects(folder: Path, per_class: int, seed: int) -> None:
    """Write labelled data for zero-shot classification: a folder per class `colour shape`, images of single objects."""
    draft = folder.with_name(f"{folder.name}.tmp.{os.getpid()}")
    for label, name in enumerate(CLASSES):
        (draft / name).mkdir(parents=True, exist_ok=True)
        colour, shape = name.split(" ")
        for i in range(per_class):
            rng = np.random.default_rng(keyed_hash(seed, label, i, SINGLE))
            drawn = draw_scene(rng, count=1)
            it = drawn.things[0]
            scene = Scene(drawn.background, drawn.gradient, (Thing(shape, colour, it.size, it.texture, it.x, it.y),))
            paint(scene, rng).save(draft / name / f"{i}.png", compress_level=1)
    _finish(draft, folder)


def _finish(draft: Path, folder: Path) -> None:
    fsio.write_bytes(draft / "README.txt", README.encode())
    if folder.is_dir():  # another process has rendered the same world, which may be in use
        shutil.rmtree(draft, ignore_errors=True)
    else:
        fsio.commit_dir(draft, folder)


def _instance(thing: Thing, image: int, k: int) -> dict[str, object]:
    x, y, width, height = box_of(thing)
    return {
        "id": 10 * image + k + 1, "image_id": image, "category_id": SHAPES.index(thing.shape) + 1, "iscrowd": 0,
        "bbox": [x, y, width, height], "area": width * height,
        "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
    }  # fmt: skip


def _vqa(asked: tuple[str, str, str, str], image: int, key: int) -> tuple[dict[str, object], dict[str, object]]:
    """(question, annotation) in the format of VQA v2, with ten equal answers."""
    text, answer, answer_type, question_type = asked
    annotation: dict[str, object] = {
        "image_id": image, "question_id": key, "question_type": question_type, "answer_type": answer_type,
        "multiple_choice_answer": answer,
        "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": k} for k in range(1, 11)],
    }  # fmt: skip
    return {"image_id": image, "question": text, "question_id": key}, annotation


def _dump(path: Path, content: object) -> None:
    fsio.write_bytes(path, json.dumps(content).encode())
