"""Caption result files as COCO takes them, [{image_id, caption}], and the score of captions from anywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cmapkd.config.suite import ResultData
from cmapkd.core.errors import DataError
from cmapkd.data.loader import read_images
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.tasks.captioning.clip_score import clip_scores
from cmapkd.tasks.captioning.java import java_metrics
from cmapkd.tasks.captioning.metrics import caption_metrics
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.result_file import ResultRow, data_settings, read_rows, scored_share
from cmapkd.tasks.score import Score
from cmapkd.tasks.task import Judge

NUMBER = re.compile(r"(\d+)(?:\.\w+)?$")


def score_caption_results(results: Path, data: ResultData, judge: Judge | None) -> Score:
    """The score of one caption for every image. judge: opens a model for CLIPScore."""
    samples = scored_share(open_samples(data.data, data_settings(data), data.split), data)
    try:
        captions = read_results(results, samples.ids)
    except DataError as error:  # a dropped image is why its caption has none
        raise DataError("; ".join((str(error), *samples.notes))) from None
    return score_captions(captions, samples, f"result file {results.name}", None if judge is None else judge())


def score_captions(
    captions: Sequence[str],
    samples: Samples,
    protocol: str,
    judge: Encoder | None = None,
    java: bool = True,
    notes: tuple[str, ...] = (),
) -> Score:
    """Every metric that can be computed of one caption per image; the notes name the others with the reason."""
    metrics = caption_metrics(captions, samples.captions)
    if java:
        figures, missing = java_metrics(captions, samples.captions)
        metrics |= figures
        notes = (*notes, *missing)
    else:
        notes = (*notes, "meteor and spice not asked for")
    if judge is not None:
        metrics |= clip_scores(judge, captions, samples.captions, partial(read_images, samples, size=judge.image_size))
    if empty := sum(not caption.strip() for caption in captions):
        notes = (*notes, f"{empty} empty captions")
    return Score(
        "captioning", protocol, metrics, samples.name, len(samples), samples.n_captions, samples.fingerprint(),
        notes=(*notes, *samples.notes),
    )  # fmt: skip


def results_of(captions: Sequence[str], ids: Sequence[str]) -> list[ResultRow]:
    """COCO's result list."""
    return [{"image_id": key, "caption": text} for key, text in zip(image_ids(ids), captions, strict=True)]


def image_ids(ids: Sequence[str]) -> list[int] | list[str]:
    """COCO's numbers, from `391895` or `COCO_val2014_000000391895.jpg`; the ids as they are if these give no numbers."""
    found = [NUMBER.search(key) for key in ids]
    numbers = [int(match[1]) for match in found if match]
    return numbers if len(set(numbers)) == len(ids) else list(ids)


def read_results(path: Path, ids: Sequence[str]) -> list[str]:
    """Captions, in the order of `ids`, of a result file that has exactly one for each. Raises DataError in one line."""
    rows = read_rows(path, "{image_id, caption}")
    for place, row in enumerate(rows):
        if not (
            isinstance(row, dict) and isinstance(row.get("image_id"), int | str) and isinstance(row.get("caption"), str)
        ):
            raise DataError(f"{path}: entry {place} is not {{image_id, caption}}, an id and a text: {str(row)[:80]}")
    wanted, counts = image_ids(ids), Counter(row["image_id"] for row in rows)
    known = set(wanted)
    problems = {
        "occur more than once": [key for key, count in counts.items() if count > 1],
        "are not images of the split": [key for key in counts if key not in known],
        "have no caption": [key for key in wanted if key not in counts],
    }
    said = [f"{len(keys)} ids {what} ({', '.join(map(str, keys[:3]))})" for what, keys in problems.items() if keys]
    if said:
        raise DataError(f"{path}: {'; '.join(said)}; give one caption for each of the {len(ids)} images")
    found = {row["image_id"]: str(row["caption"]) for row in rows}
    return [found[key] for key in wanted]
