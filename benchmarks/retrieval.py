"""Ratio e1: six retrieval recalls by dense scores and top-k, as in clip-benchmark, against rank counting."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders import interleaved, ratio_row
from cmapkd.evaluation.device import peak_megabytes, reset_peak
from cmapkd.tasks.retrieval.recall import recalls

KS = (1, 5, 10)
QUICK, FULL = (1000, 5000, 512), (5000, 25000, 768)
# Peer / ours and ours / GEMM. At the quick size the peer's one-hot matrices fit the processor's cache, so that it
# loses less, and the fixed cost of every tile weighs more.
TARGETS = {QUICK: (4.0, 1.25), FULL: (10.0, 1.15)}
RESIDENT_GB = 0.7


def dense_topk_recalls(image: Tensor, text: Tensor, owner: Tensor, batch: int = 64) -> dict[str, float]:
    """The usual way: all scores and a matrix of right pairs; per k, direction and batch a top-k and its one-hot."""
    scores = text @ image.T
    right = torch.zeros_like(scores, dtype=torch.bool)
    right[torch.arange(len(text)), owner] = True
    found = {}
    for k in KS:
        found[f"image_retrieval_recall@{k}"] = _recall(scores, right, k, batch)
        found[f"text_retrieval_recall@{k}"] = _recall(scores.T, right.T, k, batch)
    return found


def _recall(scores: Tensor, right: Tensor, k: int, batch: int) -> float:
    shares = []
    for start in range(0, len(scores), batch):
        some, wanted = scores[start : start + batch], right[start : start + batch]
        top = some.topk(k, dim=1).indices
        chosen = F.one_hot(top, num_classes=some.shape[1])
        shares.append((chosen * wanted[:, None]).sum((1, 2)) / wanted.sum(1))
    return (torch.cat(shares) > 0).float().mean().item()


def embeddings(images: int, captions: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised random images; captions are their image plus noise, so that recalls are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(images, width, generator=generator), dim=-1)
    owner = torch.arange(images).repeat_interleave(captions // images)
    noise = torch.randn(len(owner), width, generator=generator) / width**0.5
    return image, F.normalize(image[owner] + 6 * noise, dim=-1), owner


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Rows of peer over ours, ours over the bare product, equality of the recalls, and peak memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sizes = QUICK if quick else FULL
        image, text, owner = embeddings(*sizes)
        theirs, ours = dense_topk_recalls(image, text, owner), recalls(image, text, owner)
        # The peer returns float32 means, ours exact quotients: equal in every digit of a float32 counts as equal.
        equal = sum(float(torch.tensor(ours[key], dtype=torch.float32)) == value for key, value in theirs.items())
        peer = interleaved(2 if quick else 1, {"peer": lambda: dense_topk_recalls(image, text, owner)})["peer"]
        seconds = interleaved(5, {"ours": lambda: recalls(image, text, owner), "gemm": lambda: image @ text.T})
    finally:
        torch.set_num_threads(threads)
    shape = "{}×{}×{}".format(*sizes)
    best = {name: min(values) for name, values in {"peer": peer, **seconds}.items()}
    detail = f"{shape}, 1 thread, CPU s min (median): " + ", ".join(
        f"{name} {min(values):.3f} ({statistics.median(values):.3f})"
        for name, values in {"peer": peer, **seconds}.items()
    )
    return [
        ratio_row("e1", "retrieval: dense top-k / ours", best["peer"] / best["ours"], TARGETS[sizes][0], ">=", detail),
        ratio_row("e1", "retrieval: ours / bare GEMM", best["ours"] / best["gemm"], TARGETS[sizes][1], "<=", detail),
        ratio_row(
            "e1", "retrieval: figures equal", equal / len(theirs), 1.0, ">=", f"{equal} of {len(theirs)} recalls"
        ),
        ratio_row("e1", "retrieval: peak resident GB", *resident(quick)),
    ]


def resident(quick: bool) -> tuple[float, float, str, str]:
    """(ours, target, better, detail): peak resident memory of processes that do nothing else, in 10^9 bytes."""
    found = {}
    for contender in ("ours", "peer"):
        words = [sys.executable, "-m", "benchmarks.retrieval", "--resident", contender, *([] if quick else ["--full"])]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        found[contender] = float(done.stdout)
    detail = f"interpreter and torch included; dense top-k {found['peer']:.3f} GB"
    return found["ours"], RESIDENT_GB, "<=", detail


def peak(contender: str, quick: bool) -> float:
    """Peak memory of this process in 10^9 bytes while the contender runs once, its input not counted."""
    torch.set_num_threads(1)
    given = embeddings(*(QUICK if quick else FULL))
    reset_peak(torch.device("cpu"))
    {"ours": recalls, "peer": dense_topk_recalls}[contender](*given)
    return peak_megabytes(torch.device("cpu")) / 1e3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="5000 images, 25000 captions, width 768 (about a minute)")
    parser.add_argument("--resident", choices=["ours", "peer"], help="print only this contender's peak memory, in GB")
    given = parser.parse_args()
    if given.resident:
        print(peak(given.resident, not given.full))
    else:
        for found in run(quick=not given.full):
            print(json.dumps(found, ensure_ascii=False))
