"""Captioning: train a small decoder on a frozen tower's visual tokens, caption other images, count the usual metrics."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.core import fsio
from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.log import Progress
from cmapkd.data.loader import read_images
from cmapkd.data.readers.text import read_json
from cmapkd.data.samples import Samples
from cmapkd.tasks.captioning.clip_score import clip_scores
from cmapkd.tasks.captioning.decoder import (
    Captioner,
    Lexicon,
    build_lexicon,
    caption_cross_entropy,
    first_end,
    teacher_forcing,
    text_decoder,
)
from cmapkd.tasks.captioning.java import java_metrics
from cmapkd.tasks.captioning.metrics import caption_metrics
from cmapkd.tasks.captioning.search import beam_search
from cmapkd.tasks.encoder import Encoder, spans
from cmapkd.tasks.frozen_probe import (
    FINAL,
    Extraction,
    Fitting,
    drawn,
    feature_shape,
    fit,
    image_features,
    require_positive,
)
from cmapkd.tasks.score import Score
from cmapkd.towers.dual import Tower, evaluating

NUMBER = re.compile(r"(\d+)(?:\.\w+)?$")
Result = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How a captioner is trained and searched. longest: tokens of a caption, start and end included.

    java: run METEOR and SPICE where they can be run. extraction.level: the visual tokens that the decoder attends to.
    """

    width: int = 256
    depth: int = 3
    heads: int = 4
    dropout: float = 0.1
    smoothing: float = 0.1
    longest: int = 32
    beams: int = 3
    penalty: float = 0.7
    java: bool = True
    seed: int = 0
    fitting: Fitting = field(default_factory=lambda: Fitting(batch=64, lr=5e-4))
    extraction: Extraction = field(default_factory=lambda: Extraction(level="P4", bad_budget=0.001))

    def __post_init__(self) -> None:
        if self.extraction.level == FINAL:
            raise UsageError("captioning: the decoder reads tokens; give extraction.level P2, P3, P4 or P5")
        if self.longest < 3 or self.beams < 1:
            raise UsageError(
                f"captioning: longest {self.longest} must be at least 3 (start, a word, end), beams {self.beams} at least 1"
            )
        require_positive("captioning", self.fitting)


@dataclass(frozen=True)
class CaptionResult:
    """A trained captioner, its figures, the captions they were counted from, and the loss of every step."""

    captioner: Captioner
    score: Score
    captions: list[str]
    results: list[Result]
    losses: list[float]


def train_captioner(
    tower: Tower, train: Samples, val: Samples, settings: Settings | None = None, judge: Encoder | None = None
) -> CaptionResult:
    """Train a decoder on `train` where the tower stands (CPU or GPU), score it on `val`; the tower stays as it is.

    An epoch shows every caption once. judge: a CLIP-like model for CLIPScore, the teacher say. On a CPU the same seed gives the same floats.
    """
    settings = settings or Settings()
    for samples in (train, val):
        require_captions(samples)
    lexicon, tokens = caption_tokens(tower, train, settings.longest)
    images = image_features(tower, train.paths, settings.extraction, train.name)
    owner = torch.repeat_interleave(torch.arange(len(train)), torch.as_tensor(train.caption_offsets).diff())
    pool = (images.place[owner] >= 0).nonzero()[:, 0]
    steps = settings.fitting.steps(len(pool))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        captioner = build_captioner(tower, lexicon, tokens.shape[1], settings).to(tower.device)

        def loss_of(step: int) -> Tensor:
            which = pool[drawn(step, settings.fitting.batch, len(pool), settings.seed)]
            inputs, labels = (x.to(tower.device) for x in teacher_forcing(tokens[which].long()))
            logits = captioner(images.of(owner[which], tower.device), inputs)
            return caption_cross_entropy(logits, labels, settings.smoothing)

        losses = fit(captioner, loss_of, steps, settings.fitting, "train captioner")
    captions = caption_images(tower, captioner, val, settings)
    notes = [
        f"{len(train)} training images", f"{len(pool)} training captions", f"{lexicon.size} output tokens",
        f"{steps} steps", f"beam {settings.beams}", f"seed {settings.seed}",
    ]  # fmt: skip
    if images.bad:
        notes.append(f"{len(images.bad)} unreadable training images passed over")
    protocol = f"decoder on the frozen tower's {settings.extraction.level}"
    score = score_captions(captions, val, protocol, judge, settings.java, tuple(notes))
    return CaptionResult(captioner, score, captions, results_of(captions, val.ids), losses)


def require_captions(samples: Samples) -> None:
    """Raise DataError for images that nobody described."""
    if not samples.n_captions or not all(samples.captions):
        raise DataError(f"{samples.name}: captioning needs images with captions")


def caption_images(tower: Tower, captioner: Captioner, samples: Samples, settings: Settings) -> list[str]:
    """The best caption of every image by beam search; every image has to be readable."""
    images = image_features(tower, samples.paths, replace(settings.extraction, bad_budget=0.0), samples.name)
    read_back, captions = text_decoder(tower.tokenizer), []
    progress = Progress(len(samples), "caption")
    with evaluating(captioner):
        for span in spans(len(samples), settings.fitting.batch):
            visual = images.of(torch.tensor(list(span)), tower.device)
            best = beam_search(captioner, visual, settings.beams, settings.penalty).tokens[:, 0]
            captions += [read_back(captioner.lexicon.expand(row)) for row in best.tolist()]
            progress.update(span.stop)
    progress.close()
    return captions


def score_captions(
    captions: Sequence[str],
    samples: Samples,
    protocol: str,
    judge: Encoder | None = None,
    java: bool = True,
    notes: tuple[str, ...] = (),
) -> Score:
    """Every metric that can be run of one caption an image; those that cannot are named in the notes with the reason."""
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


def build_captioner(tower: Tower, lexicon: Lexicon, longest: int, settings: Settings) -> Captioner:
    """An untrained captioner for the features that `image_features` gives with the same extraction."""
    visual = feature_shape(tower, settings.extraction.level)[-1]
    return Captioner(visual, lexicon, longest, settings.width, settings.depth, settings.heads, settings.dropout)


def caption_tokens(tower: Tower, samples: Samples, longest: int) -> tuple[Lexicon, Tensor]:
    """(lexicon, indices int32 [captions, L]), L what the longest caption needs, at most `longest`."""
    chunks = []
    captions = samples.flat_captions()
    for span in spans(len(captions), 8192):
        ids = tower.tokenizer([captions[i] for i in span])[0]
        chunks.append(ids[:, : int(first_end(ids, tower.tokenizer.end).max()) + 1])
    length = max(chunk.shape[1] for chunk in chunks)
    # Filled up with end tokens: what follows the first one is padding.
    ids = torch.cat([F.pad(c, (0, length - c.shape[1]), value=tower.tokenizer.end) for c in chunks])
    lexicon = build_lexicon(ids, tower.tokenizer)
    return lexicon, lexicon.compact(ids)[:, :longest].int()


def results_of(captions: Sequence[str], ids: Sequence[str]) -> list[Result]:
    """COCO's result list."""
    return [{"image_id": key, "caption": text} for key, text in zip(image_ids(ids), captions, strict=True)]


def image_ids(ids: Sequence[str]) -> list[int] | list[str]:
    """COCO's numbers, from `391895` or `COCO_val2014_000000391895.jpg`; the ids as they are if these give no numbers."""
    found = [NUMBER.search(key) for key in ids]
    numbers = [int(match[1]) for match in found if match]
    return numbers if len(set(numbers)) == len(ids) else list(ids)


def write_results(path: Path, results: Sequence[Result]) -> None:
    """COCO's result file, whole or not at all. Raises DiskError."""
    fsio.write_bytes(path, json.dumps(list(results)).encode())


def read_results(path: Path, ids: Sequence[str]) -> list[str]:
    """Captions, in the order of `ids`, of a result file that has exactly one for each. Raises DataError in one line."""
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: a result file is a list of {{image_id, caption}}, this is a {type(rows).__name__}")
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
