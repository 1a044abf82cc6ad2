"""The frozen probe of captioning: train a small decoder on a frozen tower's visual tokens, caption other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.config.suite import HeadData
from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.log import Progress
from cmapkd.data.samples import Samples
from cmapkd.tasks.captioning.decoder import (
    Captioner,
    Lexicon,
    build_lexicon,
    caption_loss,
    first_end,
    framed,
    next_token_logits,
    text_decoder,
)
from cmapkd.tasks.captioning.results import results_of, score_captions
from cmapkd.tasks.captioning.search import beam_search
from cmapkd.tasks.encoder import Encoder, spans
from cmapkd.tasks.frozen_features import FINAL, Extraction, feature_shape, image_features
from cmapkd.tasks.frozen_probe import Fitting, drawn, fitting_of, require_positive, train_probe
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.towers.dual import DualEncoder, evaluating


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


def captioning_probe(
    tower: DualEncoder, train: Samples, val: Samples, given: HeadData, judge: Encoder | None
) -> TrainedHead:
    """`train-head captioning`: the settings of the command line or of a suite, all others at their defaults."""
    settings = Settings(given.width or Settings.width, seed=given.seed, fitting=fitting_of(given))
    return train_captioner(tower, train, val, settings, judge)


def train_captioner(
    tower: DualEncoder, train: Samples, val: Samples, settings: Settings | None = None, judge: Encoder | None = None
) -> TrainedHead:
    """Train a decoder on `train` on the tower's device, score it on `val`; the tower is not changed.

    An epoch shows every caption once. judge: a CLIP-like model for CLIPScore, e.g. the teacher. On a CPU the same seed
    gives the same floats.
    """
    settings = settings or Settings()
    for samples in (train, val):
        require_captions(samples)
    lexicon, tokens = caption_tokens(tower, train, settings.longest)
    images = image_features(tower, train.paths, settings.extraction, train.name)
    owner = torch.repeat_interleave(torch.arange(len(train)), torch.as_tensor(train.caption_offsets).diff())
    pool = (images.place[owner] >= 0).nonzero()[:, 0]
    steps = settings.fitting.steps(len(pool))

    def loss_of(captioner: Captioner, step: int) -> Tensor:
        which = pool[drawn(step, settings.fitting.batch, len(pool), settings.seed)]
        logits = next_token_logits(captioner, images.of(owner[which], tower.device), tokens[which])
        return caption_loss(logits, tokens[which], settings.smoothing)

    captioner, losses = train_probe(
        lambda: build_captioner(tower, lexicon, tokens.shape[1], settings).to(tower.device),
        loss_of, steps, settings.fitting, settings.seed, "train captioner",
    )  # fmt: skip
    notes = [
        f"{len(train)} training images", f"{len(pool)} training captions", f"{lexicon.size} output tokens",
        f"{steps} steps", f"beam {settings.beams}", f"seed {settings.seed}",
    ]  # fmt: skip
    if images.bad:
        notes.append(f"{len(images.bad)} unreadable training images passed over")
    protocol = f"decoder on the frozen tower's {settings.extraction.level}"
    return replace(score_captioner(tower, captioner, val, settings, protocol, notes, judge), losses=losses)


def score_captioner(
    tower: DualEncoder, captioner: Captioner, val: Samples, settings: Settings, protocol: str, notes: Sequence[str],
    judge: Encoder | None = None,
) -> TrainedHead:  # fmt: skip
    """The captioner with its captions of the images of `val` and their metrics; every image must be readable."""
    captions = caption_images(tower, captioner, val, settings)
    score = score_captions(captions, val, protocol, judge, settings.java, tuple(notes))
    return TrainedHead(captioner, score, results_of(captions, val.ids), captioner.words)


def require_captions(samples: Samples) -> None:
    """Raise DataError for images without captions."""
    if not samples.n_captions or not all(samples.captions):
        raise DataError(f"{samples.name}: captioning needs images with captions")


def caption_images(tower: DualEncoder, captioner: Captioner, samples: Samples, settings: Settings) -> list[str]:
    """The best caption of every image by beam search; every image must be readable."""
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


def build_captioner(tower: DualEncoder, lexicon: Lexicon, longest: int, settings: Settings) -> Captioner:
    """An untrained captioner for the features that `image_features` computes with the same extraction."""
    visual = feature_shape(tower, settings.extraction.level)[-1]
    return Captioner(visual, lexicon, longest, settings.width, settings.depth, settings.heads, settings.dropout)


def caption_tokens(tower: DualEncoder, samples: Samples, longest: int) -> tuple[Lexicon, Tensor]:
    """(lexicon, indices int32 [captions, L]); L is the length of the longest caption, at most `longest`."""
    chunks = []
    captions = samples.flat_captions()
    for span in spans(len(captions), 8192):
        ids = framed(tower.tokenizer([captions[i] for i in span])[0], tower.tokenizer)
        chunks.append(ids[:, : int(first_end(ids, tower.tokenizer.end).max()) + 1])
    length = max(chunk.shape[1] for chunk in chunks)
    # Filled up with end tokens: what follows the first one is padding.
    ids = torch.cat([F.pad(c, (0, length - c.shape[1]), value=tower.tokenizer.end) for c in chunks])
    lexicon = build_lexicon(ids, tower.tokenizer)
    return lexicon, lexicon.compact(ids)[:, :longest].int()
