"""Example captions with the images that a student retrieves for them."""

from __future__ import annotations

import numpy as np
import torch

from cmapkd.data.loader import read_images
from cmapkd.data.samples import Samples
from cmapkd.report.run_page import Retrieved
from cmapkd.towers.dual import DualEncoder

SHOWN, SIDE, BATCH = 5, 128, 256


def retrieved_images(tower: DualEncoder, samples: Samples, count: int) -> list[Retrieved]:
    """`count` captions spread evenly over the split, each with the images that rank highest for it."""
    indices = np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int)
    chunks = [range(start, min(start + BATCH, len(samples))) for start in range(0, len(samples), BATCH)]
    images = torch.cat([tower.encode_images(read_images(samples, chunk, tower.size)) for chunk in chunks])
    queries = [samples.captions[i][k % len(samples.captions[i])] for k, i in enumerate(indices)]
    order = (tower.encode_texts(queries) @ images.T).topk(min(SHOWN, len(samples))).indices.tolist()
    found = []
    for query, own, best in zip(queries, indices, order, strict=True):
        pictures = read_images(samples, np.asarray(best), SIDE).permute(0, 2, 3, 1).numpy()
        found.append(Retrieved(query, tuple(pictures), best.index(own) if own in best else None))
    return found
