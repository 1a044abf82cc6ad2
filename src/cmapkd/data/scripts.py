"""Splitting captions of several languages by their script (Latin, CJK, Cyrillic, …). Imports no torch."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import replace

import numpy as np

from cmapkd.data.samples import Samples

LEAST = 0.05  # smallest share of the captions for a script to count as a language; rarer ones are foreign names


def script(caption: str) -> str:
    """The script of most letters of a caption, by its Unicode name in lower case; "" without a letter."""
    if caption.isascii():
        return "latin" if any(map(str.isalpha, caption)) else ""
    letters = Counter(unicodedata.name(char, "").split(" ")[0] for char in caption if char.isalpha())
    return letters.most_common(1)[0][0].lower() if letters else ""


def by_script(samples: Samples) -> dict[str, Samples]:
    """For each script, the images with captions in it and only those captions; {} if there is only one script."""
    scripts = [[script(caption) for caption in own] for own in samples.captions]
    counts = Counter(name for own in scripts for name in own if name)
    found = sorted(name for name, count in counts.items() if count >= LEAST * samples.n_captions)
    return {name: _only(samples, scripts, name) for name in found} if len(found) > 1 else {}


def _only(samples: Samples, scripts: list[list[str]], name: str) -> Samples:
    kept = tuple(
        tuple(caption for caption, its in zip(own, named, strict=True) if its == name)
        for own, named in zip(samples.captions, scripts, strict=True)
    )
    part = replace(samples.with_captions(kept), name=f"{samples.name}, captions in {name}")
    return part.subset(np.array([i for i, captions in enumerate(kept) if captions]))
