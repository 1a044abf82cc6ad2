"""Ratio e1: six retrieval recalls by dense scores and top-k, as clip-benchmark does them, against rank counting."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cmapkd.evaluation.device import peak_megabytes, reset_peak
from cmapkd.tasks.retrieval.recall import recalls

KS = (1, 5, 10)
QUICK, FULL = (1000, 5000, 512), (5000, 25000, 768)
# Peer / ours and ours / GEMM. At the quick size the peer's one-hot matrices fit the cache, so that it loses less,
# and what every tile costs once weighs more.
TARGETS = {QUICK: (4.0, 1.25), FULL: (10.0, 1.15)}
RESIDENT_GB = 0.7


def dense_topk_recalls(image: Tensor, text: Tensor, owner: Tensor, batch: int = 64) -> dict[str, float]:
    """The usual way: all scores, a matrix of right pairs, per k and direction a top-k and a one-hot of it per batch."""
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


def interleaved(rounds: int, contenders: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """CPU seconds of each contender, A/B/A/B so that a busy machine is busy for all."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            start = time.process_time()
            contender()
            seconds[name].append(time.process_time() - start)
    return seconds


def run(quick: bool = True) -> list[dict[str, Any]]:
    """Rows {name, ratio, target, better, detail}: peer over ours, ours over the bare product, equality of figures."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sizes = QUICK if quick else FULL
        image, text, owner = embeddings(*sizes)
        theirs, ours = dense_topk_recalls(image, text, owner), recalls(image, text, owner)
        # They print float32 means, we exact quotients: equal means equal in every digit that they have.
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
        _row("retrieval: dense top-k / ours", best["peer"] / best["ours"], TARGETS[sizes][0], "higher", detail),
        _row("retrieval: ours / bare GEMM", best["ours"] / best["gemm"], TARGETS[sizes][1], "lower", detail),
        _row("retrieval: figures equal", equal / len(theirs), 1.0, "higher", f"{equal} of {len(theirs)} recalls"),
        _row("retrieval: peak resident GB", *resident(quick)),
    ]


def resident(quick: bool) -> tuple[float, float, str, str]:
    """(ours, target, better, detail): the largest resident sets of processes that do nothing else, in 10^9 bytes."""
    found = {}
    for contender in ("ours", "peer"):
        words = [sys.executable, "-m", "benchmarks.retrieval", "--resident", contender, *([] if quick else ["--full"])]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        found[contender] = float(done.stdout)
    detail = f"interpreter and torch included; dense top-k {found['peer']:.3f} GB"
    return found["ours"], RESIDENT_GB, "lower", detail


def peak(contender: str, quick: bool) -> float:
    """10^9 bytes of this process while the contender runs once; the making of its input is forgotten."""
    torch.set_num_threads(1)
    given = embeddings(*(QUICK if quick else FULL))
    reset_peak(torch.device("cpu"))
    {"ours": recalls, "peer": dense_topk_recalls}[contender](*given)
    return peak_megabytes(torch.device("cpu")) / 1e3


def _row(name: str, ratio: float, target: float, better: str, detail: str) -> dict[str, Any]:
    return {"id": "e1", "name": name, "ratio": ratio, "target": target, "better": better, "detail": detail}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="5000 images, 25000 captions, width 768 (about a minute)")
    parser.add_argument("--resident", choices=["ours", "peer"], help="only this one's largest resident set, in GB")
    given = parser.parse_args()
    if given.resident:
        print(peak(given.resident, not given.full))
    else:
        for row in run(quick=not given.full):
            print(json.dumps(row, ensure_ascii=False))
