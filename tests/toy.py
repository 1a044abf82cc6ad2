"""A toy world for tests: tiny towers, a few captions, random pixels; no network, no files."""

from __future__ import annotations

from pathlib import Path

import torch

from cmapkd.core.types import Batch, Inputs
from cmapkd.pyramid.targets import Targets
from cmapkd.teacher.calibrate import calibrate
from cmapkd.towers import tokenizer as tok
from cmapkd.towers.adapt import adapt
from cmapkd.towers.dual import Tower
from cmapkd.towers.load import build

CAPTIONS = [f"{a} {c} {s} {r} the {d}" for a in ("a", "two") for c in ("red", "blue", "green") for s in ("star", "ring")
            for r in ("above", "beside") for d in ("tree", "small house")]  # fmt: skip
MEAN = STD = (0.5, 0.5, 0.5)


def tokenizer(folder: Path, context: int = 16) -> tok.Tokenizer:
    return tok.train(CAPTIONS, 128, context, folder)


def config(
    vocabulary: int, width: int = 32, layers: int = 4, embedding: int = 24, size: int = 32, context: int = 16
) -> dict:
    return {
        "embed_dim": embedding,
        "vision_cfg": {"image_size": size, "layers": layers, "width": width, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": context, "vocab_size": vocabulary, "width": width, "heads": 2, "layers": layers},
    }


def tower(folder: Path, seed: int = 0, **shape: int) -> Tower:
    words = tokenizer(folder)
    cfg = config(tok.vocabulary(folder), **shape)
    torch.manual_seed(seed)
    return adapt(build(cfg), words, cfg["vision_cfg"]["image_size"], MEAN, STD, cfg, "toy", words=8)


def inputs(model: Tower, n: int, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    ids, words = model.tokenizer([CAPTIONS[(seed + k) % len(CAPTIONS)] for k in range(n)])
    pixels = torch.randint(0, 256, (n, 3, model.size, model.size), generator=generator, dtype=torch.uint8)
    return Inputs(pixels, ids, words)


def batch(student: Tower, teacher: Tower, n: int = 8, seed: int = 0) -> Batch:
    mine, theirs = inputs(student, n, seed), inputs(teacher, n, seed)
    rows = torch.arange(n)
    return Batch(rows, rows, torch.zeros_like(rows), mine, theirs)


def targets(teacher: Tower, rank: int = 16, grid: int | None = None) -> Targets:
    return calibrate(teacher, [inputs(teacher, 32, seed) for seed in range(4)], rank, grid)
