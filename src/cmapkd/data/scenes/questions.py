"""Questions about a scene with their answers, one of each answer type of VQA v2."""

from __future__ import annotations

from collections import Counter

import numpy as np

from cmapkd.data.scenes.captions import describe, plural, relation
from cmapkd.data.scenes.world import COLOURS, SHAPES, Scene

OPPOSITE = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}
Question = tuple[str, str, str, str]


def questions_of(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """(question, answer, answer type, question type), in the order yes/no, number, other."""
    return [_yes_no(scene, rng), _number(scene, rng), _other(scene, rng)]


def _yes_no(scene: Scene, rng: np.random.Generator) -> Question:
    yes = bool(rng.integers(2))
    answer = "yes" if yes else "no"
    kinds = Counter((t.colour, t.shape) for t in scene.things)
    alone = [t for t in scene.things if kinds[t.colour, t.shape] == 1]
    if len(alone) >= 2 and rng.integers(2):
        a, b = (alone[int(k)] for k in rng.choice(len(alone), size=2, replace=False))
        said = relation(a, b) if yes else OPPOSITE[relation(a, b)]
        return f"Is the {a.colour} {a.shape} {said} the {b.colour} {b.shape}?", answer, "yes/no", "is the"
    thing = scene.things[int(rng.integers(len(scene.things)))]
    colour, shape = thing.colour, thing.shape
    while not yes and (colour, shape) in kinds:  # one wrong attribute, so that both matter
        colour, shape = (
            (str(rng.choice(list(COLOURS))), thing.shape)
            if rng.integers(2)
            else (thing.colour, str(rng.choice(SHAPES)))
        )
    return f"Is there {'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}?", answer, "yes/no", "is there"


def _number(scene: Scene, rng: np.random.Generator) -> Question:
    thing, form = scene.things[int(rng.integers(len(scene.things)))], int(rng.integers(3))
    if form == 0:
        return "How many objects are there?", str(len(scene.things)), "number", "how many"
    if form == 1:
        count = sum(t.colour == thing.colour for t in scene.things)
        return f"How many {thing.colour} objects are there?", str(count), "number", "how many"
    count = sum(t.shape == thing.shape for t in scene.things)
    return f"How many {plural(thing.shape)} are there?", str(count), "number", "how many"


def _other(scene: Scene, rng: np.random.Generator) -> Question:
    shapes, colours = Counter(t.shape for t in scene.things), Counter(t.colour for t in scene.things)
    kinds = Counter((t.colour, t.shape) for t in scene.things)
    asked: list[Question] = [("What color is the background?", scene.background, "other", "what color is the")]
    for thing in scene.things:
        if shapes[thing.shape] == 1:
            asked.append((f"What color is the {thing.shape}?", thing.colour, "other", "what color is the"))
        if colours[thing.colour] == 1:
            asked.append((f"What shape is the {thing.colour} object?", thing.shape, "other", "what"))
        if kinds[thing.colour, thing.shape] == 1:
            name = describe(thing, 1).split(" ", 1)[1]
            asked.append((f"Is the {name} plain, striped or dotted?", thing.texture, "other", "is the"))
    return asked[int(rng.integers(len(asked)))]
