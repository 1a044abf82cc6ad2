"""Retrieval of a model on a data split: embeddings, then recalls by a named protocol."""

from __future__ import annotations

import torch

from cmapkd.data.samples import Samples
from cmapkd.tasks.encoder import Encoder, embed_images, embed_texts
from cmapkd.tasks.evaluate import Pixels
from cmapkd.tasks.retrieval import protocols
from cmapkd.tasks.retrieval.recall import first_captions, recalls
from cmapkd.tasks.score import Score


def score_retrieval(encoder: Encoder, samples: Samples, read: Pixels, batch: int, protocol: str) -> Score:
    """Recall in both directions and median ranks, by a named protocol."""
    rule = protocols.PROTOCOLS[protocol]
    owner = torch.repeat_interleave(torch.arange(len(samples)), torch.as_tensor(samples.caption_offsets).diff())
    captions, notes = samples.flat_captions(), tuple(samples.notes)
    if rule.images is not None:
        names = [path.name for path in samples.paths]
        notes += protocols.check_split(protocol, names, len(captions), samples.name)
    if rule.first:
        kept = first_captions(owner, len(samples))
        captions, owner = [captions[i] for i in kept.tolist()], owner[kept]
    image = embed_images(encoder, read, len(samples), batch)
    text = embed_texts(encoder, captions, batch)
    found = []
    for fold in protocols.folds(len(samples), rule.folds):
        inside = (owner >= fold.start) & (owner < fold.stop)
        found.append(recalls(image[fold.start : fold.stop], text[inside], owner[inside] - fold.start))
    metrics = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
    return Score(
        "retrieval", protocol, metrics, samples.name, len(samples), len(captions), samples.fingerprint(), notes=notes
    )
