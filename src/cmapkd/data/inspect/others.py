"""The report of `cmapkd data inspect` on data without captions: questions and boxes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import DataError
from cmapkd.data.boxes import Boxes
from cmapkd.data.duplicates import same_bytes
from cmapkd.data.questions import Questions
from cmapkd.data.readers import open_boxes, open_questions
from cmapkd.data.readers.vqa import annotations_path
from cmapkd.data.stored import Picture

SHOWN = 3
MISSING = re.compile(r"^(\d+) (?:names without a file|questions whose image has no file)")
SMALL, MEDIUM = 32**2, 96**2  # COCO's limits of area


def question_facts(path: Path, images: Path | None = None) -> tuple[Iterable[str], bool]:
    """(lines on the questions of a VQA file, with answers and images if available; whether images are available)."""
    data = DataConfig(train=str(path), images=images)
    answered = annotations_path(path).is_file()
    try:
        found, lacking = open_questions(str(path), data, answered=answered), ""
    except DataError as error:
        found, lacking = open_questions(str(path), data, answered=answered, pictures=False), str(error)
    return _questions(found, lacking), not lacking


def box_facts(path: Path, images: Path | None = None) -> Iterable[str]:
    return _boxes(open_boxes(str(path), DataConfig(train=str(path), images=images)))


def _questions(found: Questions, lacking: str) -> Iterable[str]:
    images = Counter(found.image_ids)
    yield f"questions: {len(found)}"
    yield f"images: {len(images)}"
    yield f"questions per image: {spread(list(images.values()))}"
    yield f"duplicate questions: {len(found) - len(set(zip(found.image_ids, found.questions, strict=True)))}"
    if found.answered:
        yield f"answers per question: {spread([len(answers) for answers in found.answers])}"
        yield f"all answers alike: {sum(len(set(answers)) == 1 for answers in found.answers)}"
        yield f"answer types: {shares(found.answer_types)}"
    else:
        yield "answers: none beside it; these questions can be answered, not scored"
    yield from repeated_images(list(dict.fromkeys(found.paths)))
    yield f"missing files: all {len(images)} images; {lacking}" if lacking else f"missing files: {lost(found.notes)}"
    yield from (f"note: {note}" for note in found.notes or ("nothing dropped",))
    yield "samples:"
    for key, text, answers in list(zip(found.ids, found.questions, found.answers, strict=True))[:SHOWN]:
        yield f"  {key}: {text}" + (f" → {Counter(answers).most_common(1)[0][0]}" if answers else "")


def _boxes(found: Boxes) -> Iterable[str]:
    counts = [len(boxes) for boxes in found.boxes]
    area = np.concatenate([*found.area, np.empty(0)])
    yield f"images: {len(found)}"
    yield f"boxes: {sum(counts)} ({sum(int(crowd.sum()) for crowd in found.iscrowd)} crowds)"
    yield f"boxes per image: {spread(counts)}"
    yield f"duplicate boxes: {sum(map(_repeated, found.boxes, found.category_ids))} (same image, category and place)"
    sizes = ((area < SMALL).sum(), ((area >= SMALL) & (area < MEDIUM)).sum(), (area >= MEDIUM).sum())
    yield "areas: " + ", ".join(f"{name} {n}" for name, n in zip(("small", "medium", "large"), sizes, strict=True))
    names = list(found.categories.values())
    yield f"categories: {len(names)} ({', '.join(names[:SHOWN])}, …), ids {min(found.categories)} to {max(found.categories)}"
    yield from repeated_images(found.paths)
    yield f"missing files: {lost(found.notes)}"
    yield from (f"note: {note}" for note in found.notes or ("nothing dropped",))
    yield f"fingerprint: {found.fingerprint()[:12]}"
    yield "samples:"
    for path, (width, height), keys in list(zip(found.paths, found.sizes, found.category_ids, strict=True))[:SHOWN]:
        yield f"  {path.name} ({width}×{height}): {shares([found.categories[int(key)] for key in keys]) or 'no box'}"


def _repeated(boxes: np.ndarray, categories: np.ndarray) -> int:
    """The number of boxes [k, 4] of an image that repeat one of the same category."""
    return len(boxes) - len(np.unique(np.column_stack([boxes, categories]), axis=0))


def repeated_images(pictures: Sequence[Picture]) -> Iterable[str]:
    """A line on duplicate images; none where no file can be compared."""
    repeats, looked, first = same_bytes(pictures)
    if looked:
        some = f", first {looked} looked at" if looked < len(pictures) else ""
        named = f", such as {first[0]} and {first[1]}" if first else ""
        yield f"duplicate images: {repeats} (same bytes{some}){named}"


def lost(notes: Iterable[str]) -> int:
    """The number of missing files according to the notes of a reader."""
    return sum(int(found[1]) for note in notes if (found := MISSING.match(note)))


def spread(counts: Sequence[int] | np.ndarray) -> str:
    return f"min {min(counts)}, mean {sum(counts) / len(counts):.2f}, max {max(counts)}" if len(counts) else "none"


def shares(kinds: Iterable[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in Counter(kinds).most_common(6))
