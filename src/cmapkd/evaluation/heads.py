"""`cmapkd train-head`: a head on a frozen tower for VQA, detection or captioning, its figures and its result file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from cmapkd.config.schema import HOLDOUT, DataConfig
from cmapkd.config.suite import HeadData
from cmapkd.config.tree import plain
from cmapkd.core.errors import UsageError
from cmapkd.data.holdout import Data, hold_out
from cmapkd.data.readers import open_boxes, open_questions, open_samples
from cmapkd.tasks.captioning import probe as captioning
from cmapkd.tasks.detection import probe as detection
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.frozen_probe import Extraction, Fitting
from cmapkd.tasks.headed import Headed, headed_captioning, headed_detection, headed_vqa, write_head
from cmapkd.tasks.vqa import probe as vqa
from cmapkd.towers.dual import Tower


def train_vqa(tower: Tower, data: HeadData, judge: Encoder | None) -> Headed:
    width, head = data.width or vqa.Settings.width, data.head or vqa.Settings.head
    settings = vqa.Settings(head, width=width, seed=data.seed, fitting=_fitting(data))
    train, val = opened(open_questions, data)
    done = vqa.train_vqa(tower, train, val, settings)
    return headed_vqa(done.head, done.vocabulary, done.score, done.answers)


def train_detection(tower: Tower, data: HeadData, judge: Encoder | None) -> Headed:
    channels = data.width or detection.Settings.channels
    settings = detection.Settings(data.epochs, data.batch, data.lr, channels=channels, seed=data.seed)
    train, val = opened(open_boxes, data)
    done = detection.train_detector(tower, train, val, settings)
    return headed_detection(done.detector, train, val, done.precision, done.results, "; ".join(done.notes))


def train_captioning(tower: Tower, data: HeadData, judge: Encoder | None) -> Headed:
    settings = captioning.Settings(
        data.width or captioning.Settings.width, seed=data.seed, fitting=_fitting(data),
        extraction=Extraction(level="P4", bad_budget=0.001),
    )  # fmt: skip
    train, val = opened(open_samples, data)
    done = captioning.train_captioner(tower, train, val, settings, judge)
    return headed_captioning(done.captioner, done.score, done.results)


HEADS: dict[str, Callable[[Tower, HeadData, Encoder | None], Headed]] = {
    "vqa": train_vqa,
    "detection": train_detection,
    "captioning": train_captioning,
}


def train_head(task: str, tower: Tower, data: HeadData, out: Path, judge: Encoder | None = None) -> Headed:
    """Train, score, and write head.safetensors, head.json, results.json and, last, scores.json into `out`."""
    if data.head and task != "vqa":
        raise UsageError(f"{task}: head is a choice of vqa; drop it")
    done = HEADS[task](tower, data, judge)
    write_head(task, done, plain(data), out)
    return done


def _fitting(data: HeadData) -> Fitting:
    return Fitting(**{**asdict(Fitting()), "epochs": data.epochs, "batch": data.batch, "lr": data.lr})


def opened(read: Callable[[str, DataConfig, str | None], Data], data: HeadData) -> tuple[Data, Data]:
    """(training data, data to score on) of an entry."""
    train = read(data.train, DataConfig(train=data.train, images=data.images), data.train_split)
    if data.val == HOLDOUT:
        return hold_out(train, data.holdout)
    return train, read(data.val, DataConfig(train=data.val, images=data.images), data.val_split)
