"""Hard negatives of the built-in world: pairs of a true sentence and a false one that differs in one attribute or relation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cmapkd.core.errors import DataError
from cmapkd.core.order import keyed_hash
from cmapkd.data.samples import Samples
from cmapkd.data.scenes.captions import count_words, describe, relation
from cmapkd.data.scenes.questions import OPPOSITE
from cmapkd.data.scenes.world import BACKGROUNDS, COLOURS, NUMBERS, SHAPES, SIZES, TEXTURES, Scene, Thing

# The difference of the two sentences. swap: the two objects exchange places, so that both have the same words.
KINDS = ("relation", "swap", "colour", "shape", "size", "texture", "background", "count")
ATTRIBUTES = {"colour": tuple(COLOURS), "shape": SHAPES, "size": tuple(SIZES), "texture": TEXTURES[1:]}
MOST = len(NUMBERS) - 1  # largest number of objects in a scene
STREAM = 7  # a random stream independent of the one that draws the scenes


@dataclass(frozen=True)
class Contrast:
    """A true and a false sentence about an image. image: its index in the samples; kind: one of KINDS."""

    image: int
    kind: str
    true: str
    false: str


def contrasts(samples: Samples) -> list[Contrast]:
    """At most one contrast of each kind for every scene, always the same. Raises DataError for data without scenes."""
    scenes = read_scenes_of(samples)
    return [
        Contrast(image, kind, true, false)
        for image, key in enumerate(samples.ids)
        for kind, true, false in contrasts_of(scenes[key], np.random.default_rng(keyed_hash(int(key), STREAM)))
    ]


def read_scenes_of(samples: Samples) -> dict[str, Scene]:
    """The scenes of the samples by id, from scenes.json. Raises DataError for other data."""
    first = samples.paths[0] if len(samples) else None
    path = first.parent.parent / "scenes.json" if isinstance(first, Path) else None
    if path is None or not path.is_file():
        raise DataError(
            f"hard_negatives: {samples.name} is not of the built-in world, whose sentences alone can be made false in one "
            "word; give scenes:N"
        )
    return {
        str(row["id"]): Scene(row["background"], row["gradient"], tuple(Thing(**thing) for thing in row["things"]))
        for row in json.loads(path.read_text())
    }


def contrasts_of(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, true sentence, false sentence) for each kind possible in a scene."""
    pairs = [(a, b) for a in scene.things for b in scene.things if a is not b and not _alike(a, b)]
    thing = scene.things[int(rng.integers(len(scene.things)))]
    if pairs:
        a, b = pairs[int(rng.integers(len(pairs)))]
        thing, said = a, relation(a, b)
        true = _related(a, said, b)
        if not holds(scene, a, OPPOSITE[said], b):
            yield "relation", true, _related(a, OPPOSITE[said], b)
        if not holds(scene, b, said, a):
            yield "swap", true, _related(b, said, a)
    for kind, words in ATTRIBUTES.items():
        others = [replace(thing, **{kind: word}) for word in words if word != getattr(thing, kind)]
        absent = [other for other in others if not any(_fits(other, each) for each in scene.things)]
        if absent:
            other = absent[int(rng.integers(len(absent)))]
            yield kind, f"{describe(thing, 3)} .", f"{describe(other, 3)} ."
    grounds = [ground for ground in BACKGROUNDS if ground != scene.background]
    other = grounds[int(rng.integers(len(grounds)))]
    true, false = (f"{describe(thing, 3)} on {_ground(ground)} ." for ground in (scene.background, other))
    yield "background", true, false
    counts = Counter(each.shape for each in scene.things)
    room = MOST - len(scene.things)  # a total that no scene has would give the false sentence away
    numbers = [n for n in (counts[thing.shape] - 1, counts[thing.shape] + 1) if 0 < n <= counts[thing.shape] + room]
    if numbers:
        wrong = {**counts, thing.shape: numbers[int(rng.integers(len(numbers)))]}
        yield "count", f"{count_words(counts)} .", f"{count_words(wrong)} ."


def holds(scene: Scene, a: Thing, said: str, b: Thing) -> bool:
    """Whether an object that fits the description of `a` has the relation `said` to another that fits that of `b`."""
    things = scene.things
    return any(_fits(a, x) and _fits(b, y) and relation(x, y) == said for x in things for y in things if x is not y)


def _fits(said: Thing, thing: Thing) -> bool:
    """Whether the description fits the object; `plain` is never said, so it fits every texture."""
    same = (said.colour, said.shape, said.size) == (thing.colour, thing.shape, thing.size)
    return same and said.texture in ("plain", thing.texture)


def _alike(a: Thing, b: Thing) -> bool:
    return _fits(a, b) or _fits(b, a)


def _related(a: Thing, said: str, b: Thing) -> str:
    return f"{describe(a, 3)} {said} {describe(b, 3)} ."


def _ground(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name} background"
