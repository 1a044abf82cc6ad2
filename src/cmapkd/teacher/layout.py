"""Layout of a cache: the fields of its two stores, and the key of everything that a stored feature depends on."""

from __future__ import annotations

from typing import Any

import numpy as np

import cmapkd
from cmapkd.config.sources import CacheConfig, DataConfig, TowerConfig
from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, LogitScale
from cmapkd.data.decoders import views_key
from cmapkd.data.samples import Samples
from cmapkd.pyramid.levels import PHRASE, Shape
from cmapkd.pyramid.maps import MAPS, token_count
from cmapkd.pyramid.targets import rank_for, stored_side
from cmapkd.store.shards import Field
from cmapkd.teacher.cached import MASKED
from cmapkd.towers.named import identity

SPREAD = 5.0  # int8 covers ±5 standard deviations of a unit-variance channel; its rounding noise is FVU 1.3e-4
RESERVED = 0.1


def fields(shape: Shape, words: int, config: CacheConfig) -> tuple[dict[str, Field], dict[str, Field]]:
    """Record layouts of the image and the text store, of what the teacher gives; the text store of an image-only one is empty."""

    def level(tokens: int, width: int) -> Field:
        rank = rank_for(width, config.rank)
        if config.dtype == "fp16":
            return Field((tokens, rank), "float16")
        return Field((tokens, rank), "int8", np.full(rank, SPREAD / 127, dtype=np.float32))

    final, bridge = Field((shape.embedding,), "float16"), Field((4, shape.embedding), "float16")
    image = {"final": final, "bridge": bridge}
    for name, side, width in zip(IMAGE_LEVELS, shape.grids, shape.image_widths, strict=True):
        count = token_count(name, stored_side(side, config.grid))
        if config.tokens is not None and name in MAPS:
            count = min(config.tokens, shape.grids[2] ** 2)
        image[name] = level(count, width)
    if config.tokens is not None:
        image["places"] = Field((min(config.tokens, shape.grids[2] ** 2),), "int32")
    text = {"final": final} if "text" in shape.sides else {}
    if shape.text_widths:
        text["bridge"] = bridge
    tokens = (words, -(-words // PHRASE), 1, 1)
    for name, count, width in zip(TEXT_LEVELS, tokens, shape.text_widths, strict=False):
        if name not in shape.levels:
            continue
        text[name] = level(count, width)
        if name in MASKED:
            text[f"{name}-mask"] = Field((count,), "uint8")
    return image, text


def cache_key(teacher: TowerConfig | None, data: DataConfig, cache: CacheConfig, samples: Samples) -> dict[str, str]:
    """Everything that a stored feature depends on; a store whose key differs in any field is refused. Builds no model."""
    assert teacher is not None
    return {
        "version": cmapkd.__version__.rsplit(".", 1)[0],
        **{f"teacher {name}": value for name, value in identity(teacher).items()},
        "data": samples.fingerprint(),
        "views": views_key(data),
        "rank": str(cache.rank),
        "grid": f"{cache.grid} tokens {cache.tokens}{f' {cache.sampling}' if cache.tokens else ''}",
        "dtype": cache.dtype,
        "words": str(cache.words),
        "calibration": f"{cache.calibration_samples} samples, held out {reserved(data)}",
    }


def similarity_of(facts: dict[str, Any]) -> LogitScale:
    """The teacher's scale and bias in a cache's teacher.json; one without a bias is of a softmax teacher."""
    return LogitScale(facts["scale"], facts.get("bias"))


def reserved(data: DataConfig) -> float:
    """Share of the train split that calibration never sees: at least a tenth, so that a cache serves any smaller holdout."""
    return max(RESERVED, data.holdout)
