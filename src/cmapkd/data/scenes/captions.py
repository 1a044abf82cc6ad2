"""Captions of a scene: true sentences of different form and detail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from cmapkd.data.scenes.world import NUMBERS, SIDE, Scene, Thing


def captions_of(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five true sentences of different form and detail."""
    things, ground = (
        list(scene.things),
        f"{'a' if scene.background[0] not in 'aeiou' else 'an'} {scene.background} background",
    )
    order = rng.permutation(len(things))
    first = things[order[0]]
    if len(things) == 1:
        full = describe(first, 3)
        return [
            f"{full} on {ground} .",
            f"there is {describe(first, 2)} and nothing else .",
            f"a picture of {describe(first, 1)} .",
            f"{describe(first, 2)} {place(first)} .",
            f"a single {first.colour} {first.shape} , {first.texture} and {first.size} .",
        ]
    second, last, other = things[order[1]], things[order[-1]], things[order[len(things) // 2]]
    objects = "object" if len(things) == 2 else "objects"
    listed = [describe(things[k], 1) for k in rng.permutation(len(things))]
    return [
        f"{describe(first, 3)} {relation(first, second)} {describe(second, 3)} .",
        f"{', '.join(listed[:-1])} and {listed[-1]} on {ground} .",
        f"{describe(last, 2)} is {relation(last, first)} {describe(first, 2)} .",
        f"{counted(things)} on {ground} , with {describe(second, 3)} .",
        f"{describe(other, 2)} {place(other)} , with {NUMBERS[len(things) - 1]} other {objects} .",
    ]


def describe(thing: Thing, detail: int) -> str:
    """An object in words. detail 1: colour and shape; 2: also texture; 3: also size and texture."""
    words = [thing.colour, thing.shape]
    if detail >= 2 and thing.texture != "plain":
        words.insert(0, thing.texture)
    if detail >= 3:
        words.insert(0, thing.size)
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def relation(a: Thing, b: Thing) -> str:
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def place(thing: Thing) -> str:
    across = "left" if thing.x < SIDE * 0.4 else "right" if thing.x > SIDE * 0.6 else ""
    down = "top" if thing.y < SIDE * 0.4 else "bottom" if thing.y > SIDE * 0.6 else ""
    where = f"{down} {across}".strip()
    return f"at the {where}" if where else "in the middle"


def counted(things: list[Thing]) -> str:
    """`there are two stars and one ring`: the shapes of a scene in order of appearance."""
    return count_words(Counter(thing.shape for thing in things))


def count_words(counts: Mapping[str, int]) -> str:
    """`there are two stars and one ring` from the number of objects of each shape."""
    parts = [f"{NUMBERS[n]} {name if n == 1 else plural(name)}" for name, n in counts.items()]
    return f"there {'is' if parts and parts[0].startswith('one') else 'are'} {' and '.join(parts)}"


def plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def relations_of(scene: Scene) -> list[tuple[int, str, int]]:
    """(a, relation of a to b, b) for every ordered pair of objects, by index."""
    n = range(len(scene.things))
    return [(a, relation(scene.things[a], scene.things[b]), b) for a in n for b in n if a != b]
