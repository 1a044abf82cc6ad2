"""VQA v2: a questions JSON, and the annotations JSON of the same split beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.gathering import clean
from cmapkd.data.questions import Questions
from cmapkd.data.readers.image_paths import locate
from cmapkd.data.readers.split_files import refuse_split
from cmapkd.data.readers.text import field, listing, neighbours, read_json, whole
from cmapkd.data.samples import is_file

OTHER_KINDS = {"caption": "captions", "bbox": "boxes", "multiple_choice_answer": "the answers"}


def read_vqa(
    path: Path, data: DataConfig, split: str | None = None, answered: bool = True, pictures: bool = True
) -> Questions:
    """The questions of a file; answered: with their answers, pictures: with their images.

    Raises DataError for a question without answers, repeated ids, or missing images.
    """
    refuse_split(path, split)
    content = read_json(path)
    if isinstance(content, dict) and "questions" not in content and isinstance(content.get("annotations"), list):
        rows = content["annotations"][:1]
        kind = next((kind for key, kind in OTHER_KINDS.items() if rows and key in rows[0]), "annotations alone")
        raise DataError(f"{path}: holds {kind}, no questions; give the questions file{neighbours(path)}")
    asked = _unique(listing(content, "questions", path), path)
    truths, notes = _answers(path, asked) if answered else ({}, [])
    images = {key: whole(row, "image_id", str(path)) for key, row in asked.items()}
    places: dict[int, Path] = {}
    if pictures:
        names = {image: image_name(content, path, image) for image in dict.fromkeys(images.values())}
        found = dict(zip(names, locate(path, data.images, list(names.values())), strict=True))
        places = {image: place for image, place in found.items() if is_file(place)}
        if missing := [key for key in asked if images[key] not in places]:
            first = names[images[missing[0]]]
            notes.append(f"{len(missing)} questions whose image has no file dropped (first: {first!r})")
    kept = [key for key in asked if not pictures or images[key] in places]
    rows = [truths.get(key, {}) for key in kept]
    return Questions(
        path.name,
        tuple(kept),
        tuple(images[key] for key in kept),
        tuple(places[images[key]] for key in kept) if pictures else (),
        tuple(clean(str(field(asked[key], "question", f"{path}: question {key}"))) for key in kept),
        tuple(str(row.get("question_type", "")) for row in rows),
        tuple(str(row.get("answer_type", "")) for row in rows),
        tuple(_given(row) for row in rows),
        tuple(notes),
    )


def annotations_path(path: Path) -> Path:
    """`v2_OpenEnded_mscoco_X_questions.json` → `v2_mscoco_X_annotations.json`, and likewise for other names."""
    return path.with_name(path.name.replace("OpenEnded_", "").replace("questions", "annotations"))


def questions_path(path: Path) -> Path | None:
    """The questions file beside an annotations file; None for any other file, or when it is missing."""
    asked = path.name.replace("annotations", "questions")
    names = [asked, asked.replace("mscoco_", "OpenEnded_mscoco_")] if asked != path.name else []
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def image_name(content: Any, path: Path, image: int) -> str:
    """The COCO file name of an image id, by the `data_subtype` of the file or the split in its name."""
    subtype = str(content.get("data_subtype") or "")
    if content.get("data_type") == "scenes":
        return f"{subtype}_{image:06d}.png"
    years = ("train2014", "val2014", "test2015")
    year = next((year for year in years if subtype.startswith(year) or year in path.name), years[0])
    return f"COCO_{year}_{image:012d}.jpg"


def _answers(path: Path, asked: dict[int, dict[str, Any]]) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """(annotation by question id, notes)."""
    beside = annotations_path(path)
    if beside == path or not beside.is_file():
        raise DataError(
            f"{path}: its answers are not beside it as {beside.name}{neighbours(path)}; put them there "
            "(a test split has none and can only be answered, not scored)"
        )
    truths = _unique(listing(read_json(beside), "annotations", beside), beside)
    if wrong := next((key for key in asked if not isinstance(truths.get(key, {}).get("answers", []), list)), None):
        raise DataError(f"{beside}: `answers` must be a list, but is none for question_id {wrong}; correct the entry")
    bare = [key for key in asked if not truths.get(key, {}).get("answers")]
    if bare:
        raise DataError(
            f"{beside}: {len(bare)} of {len(asked)} questions of {path.name} have no answers in it "
            f"(first: question_id {bare[0]}); give questions and annotations of the same split"
        )
    spare = len(truths.keys() - asked.keys())
    notes = [f"{spare} annotations of questions that are not listed dropped"] if spare else []
    odd = sum(len(truths[key]["answers"]) != 10 for key in asked)
    return truths, [*notes, f"{odd} questions have another number of answers than ten"] if odd else notes


def _given(row: dict[str, Any]) -> tuple[str, ...]:
    """The answers unchanged, because the official score compares raw strings when all ten agree."""
    answers: Sequence[Any] = row.get("answers") or ()
    return tuple(str(a.get("answer", "") if isinstance(a, dict) else a) for a in answers)


def _unique(rows: Sequence[dict[str, Any]], path: Path) -> dict[int, dict[str, Any]]:
    if not rows:
        raise DataError(f"{path}: it lists no question; is it the right file?")
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        key = whole(row, "question_id", str(path))
        if key in found:
            raise DataError(f"{path}: question_id {key} occurs twice; ids must be unique, remove one of the entries")
        found[key] = row
    return found
