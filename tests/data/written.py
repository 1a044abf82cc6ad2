"""Writers of small data sets in the formats of large ones: tar shards, COCO instances, VQA v2."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from pictures import picture

BOX = {"id": 1, "image_id": 1, "category_id": 90, "bbox": [10, 20, 30, 8.5], "area": 200.5, "iscrowd": 0}


def instances(folder: Path, *changes: dict, name: str = "instances_val2017.json", **content: object) -> Path:
    """Two images, the first half as large as the JSON says; an annotation for each of `changes`."""
    picture(folder / "val2017" / "1.png", size=(40, 30)), picture(folder / "val2017" / "2.png", size=(20, 10))
    images = [
        {"id": 1, "file_name": "1.png", "width": 80, "height": 60},
        {"id": 2, "file_name": "2.png", "width": 20, "height": 10},
    ]
    whole = {
        "images": images, "annotations": [BOX | change for change in changes],
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
    }  # fmt: skip
    path = folder / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole | content))
    return path


NAME = "v2_OpenEnded_mscoco_val2014_questions.json"
ASKED = [{"image_id": k, "question": f"Is it\n{k}?", "question_id": 10 * k} for k in (1, 2)]


def truth(key: int, **changes: object) -> dict:
    answers = [{"answer": "Yes" if k < 7 else "no", "answer_id": k} for k in range(10)]
    row = {
        "question_id": key,
        "image_id": key // 10,
        "question_type": "is it",
        "answer_type": "yes/no",
        "answers": answers,
    }
    return row | changes


def vqa(folder: Path, asked: list | None = None, truths: list | None = None) -> Path:
    for k in (1, 2):
        picture(folder / "val2014" / f"COCO_val2014_{k:012d}.jpg")
    (folder / NAME).write_text(json.dumps({"data_subtype": "val2014", "questions": ASKED if asked is None else asked}))
    given = [truth(20), truth(10)] if truths is None else truths
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": given}))
    return folder / NAME


def shard(path: Path, names: list[str], captions: dict[str, str | None] | None = None, stats: bool = True) -> Path:
    """A tar of .jpg, .txt and .json for every name; a caption of None leaves its .txt out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for k, name in enumerate(names):
            image = picture(path.parent / "tmp.jpg", (10 * k, 50, 90)).read_bytes()
            caption = (captions or {}).get(name, f"caption {name}")
            entries = [("jpg", image), ("json", json.dumps({"caption": f"json {name}", "key": name}).encode())]
            for suffix, data in entries + ([("txt", caption.encode())] if caption is not None else []):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (path.parent / "tmp.jpg").unlink()
    if stats:
        path.with_name(f"{path.stem}_stats.json").write_text(json.dumps({"successes": len(names)}))
    return path


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
