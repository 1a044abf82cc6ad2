"""Scenes of the built-in world: their objects and backgrounds, and random sampling of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 64
COLOURS = {
    "red": (214, 40, 40), "green": (42, 157, 80), "blue": (38, 84, 212), "yellow": (244, 208, 32),
    "purple": (140, 60, 190), "orange": (244, 130, 30), "cyan": (60, 200, 220), "brown": (120, 72, 40),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
TEXTURES = ("plain", "striped", "dotted")
SIZES = {"small": 7.0, "large": 12.0}
BACKGROUNDS = {
    "white": (244, 244, 244),
    "grey": (150, 150, 150),
    "black": (24, 24, 24),
    "pink": (250, 200, 210),
    "beige": (226, 210, 170),
}
NUMBERS = ("no", "one", "two", "three", "four")


@dataclass(frozen=True)
class Thing:
    """An object of a scene; x and y are its centre in pixels."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    background: str
    gradient: bool
    things: tuple[Thing, ...]


def draw_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """A random scene of 1-4 objects on a jittered 3×3 grid, so that objects overlap little and relations are clear.

    Colours and shapes of a scene are drawn from a palette of two or three each: scenes share objects and differ in
    relations, textures, sizes and counts.
    """
    count = count or int(rng.choice([1, 2, 3, 4], p=[0.1, 0.35, 0.35, 0.2]))
    colours = rng.choice(list(COLOURS), size=min(3, max(2, count)), replace=False)
    shapes = rng.choice(SHAPES, size=2 if count < 4 else 3, replace=False)
    cells = rng.choice(9, size=count, replace=False)
    things = []
    for cell in cells:
        x = (cell % 3 + 0.5) * SIDE / 3 + rng.uniform(-3, 3)
        y = (cell // 3 + 0.5) * SIDE / 3 + rng.uniform(-3, 3)
        texture = str(rng.choice(TEXTURES, p=[0.5, 0.25, 0.25]))
        things.append(
            Thing(
                str(rng.choice(shapes)),
                str(rng.choice(colours)),
                str(rng.choice(list(SIZES))),
                texture,
                float(x),
                float(y),
            )
        )
    return Scene(str(rng.choice(list(BACKGROUNDS))), bool(rng.integers(2)), tuple(things))
