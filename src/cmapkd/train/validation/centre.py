"""Centring: a share of their mean is taken from the student's image embeddings, as much as raises recall on train images.

Some captions are near to every image and stand before the right one ("hubs", Radovanović et al. 2010). With the mean
image embedding μ, ⟨v − μ, t⟩ = ⟨v, t⟩ − ⟨μ, t⟩ takes from each caption what it has in common with all images (Suzuki et
al. 2013, Centering Similarity Measures to Reduce Hubs); a caption's order of the images hardly changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.data.images import Unreadable, decode
from cmapkd.data.views import plain
from cmapkd.distributed.collectives import tensors_from_first
from cmapkd.tasks.encoder import spans
from cmapkd.tasks.retrieval.recall import recalls
from cmapkd.towers.dual import DualEncoder, evaluating
from cmapkd.towers.shift import shifted
from cmapkd.train.state import Run

IMAGES, CAPTIONS, PROBE = 512, 5, 4  # images, captions of each at most, images on which the shift is verified
SHARES = (0.0, 0.5, 1.0)


@contextmanager
def centred(run: Run) -> Iterator[float]:
    """Inside the block the student is centred, as it is validated and written; training goes on with the plain one.

    Gives the share of μ that is taken: 0 where none raises the mean recall of the train images, where the student is
    frozen, not what is scored, read by a task's head or without texts, and where its image tower has no bias that could take it.
    """
    share, mean, probe = _choice(run)
    if share == 0:
        yield 0.0
        return
    student = run.state.learner.student
    with evaluating(student), shifted(student.image, share * mean, probe) as done:  # dropout would hide an exact shift
        yield share if done else 0.0


def best_share(image: Tensor, text: Tensor, owner: Tensor) -> float:
    """The share of the mean of raw `image` [n, E] without which its mean recall with `text` [m, E] is highest.

    owner: int [m], the image of each text. Of equal shares it is the smallest.
    """

    def recall(share: float) -> float:
        return recalls(F.normalize(image - share * image.mean(0), dim=-1), text, owner)["mean_recall"]

    return max(SHARES, key=lambda share: (recall(share), -share))


def _choice(run: Run) -> tuple[float, Tensor, Tensor]:
    """(share, μ [E], probe images [n, 3, S, S]), as the first process finds them."""

    def made() -> tuple[dict[str, Tensor], float]:
        share, mean, probe = _own_choice(run)
        return {"mean": mean, "probe": probe}, share

    tensors, share = tensors_from_first(made)
    device = run.state.learner.device
    return share, tensors["mean"].to(device), tensors["probe"].to(device)


@torch.inference_mode()
def _own_choice(run: Run) -> tuple[float, Tensor, Tensor]:
    student, method, batch = run.state.learner.student, run.objective.method, run.config.eval.batch
    frozen = method.student == "frozen" or "image" in student.frozen
    other = method.served is not None or frozen or run.task is not None or "text" not in student.shape.sides
    if other or not run.config.train.centre:
        return 0.0, torch.empty(0), torch.empty(0)
    pixels, texts, owner = _sample(run, student)
    with evaluating(student):
        raw = torch.cat([student.raw_images(pixels[s.start : s.stop]) for s in spans(len(pixels), batch)])
        text = torch.cat([student.encode_texts(texts[s.start : s.stop]) for s in spans(len(texts), batch)])
    share = best_share(raw.cpu(), text.cpu(), owner)
    return share, raw.mean(0), student.normalise(pixels[:PROBE].to(student.device))


def _sample(run: Run, student: DualEncoder) -> tuple[Tensor, list[str], Tensor]:
    """Pixels [n, 3, S, S], captions [m] and their images [m] of train images, evenly spread; no unreadable ones."""
    samples, pool = run.loader.samples, run.loader.pool
    pixels, texts, owner = [], [], []
    for i in pool[np.unique(np.linspace(0, len(pool) - 1, IMAGES).astype(np.int64))].tolist():
        try:
            pixels.append(torch.from_numpy(plain(decode(samples.paths[i]), student.size)))
        except Unreadable:
            continue
        texts += samples.captions[i][:CAPTIONS]
        owner += [len(pixels) - 1] * len(samples.captions[i][:CAPTIONS])
    return torch.stack(pixels), texts, torch.tensor(owner)
